"""What the tests do with damaged files and odd settings in Python, and when that went right."""

from __future__ import annotations

import hashlib
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from damage import DATA

import janus_core
from janus_core import Janus
from janus_core.convert import convert
from janus_core.weights.lora import read_lora

PROMPT, QUESTION = "a red circle on a white background", "What is in the picture?"


def use_checkpoint(checkpoint: Path, lora: Path | None, copy: Path | None) -> str:
    """Load a checkpoint, read its LoRA, draw and ask, and write it to `copy`. Returns a digest of picture and answer."""
    janus = janus_core.load(checkpoint)
    if lora is not None:
        for layer in read_lora(lora, janus.model):
            change = layer.up.float() @ layer.down.float() * layer.scale
            assert change.shape == layer.target.shape and bool(change.isfinite().all())
    digest = draw_and_ask(janus, {}, {"max_new_tokens": 4})
    if copy is not None:
        convert(checkpoint, copy)
        janus_core.load(copy)
    return digest


def draw_and_ask(janus: Janus, drawing: dict[str, Any], asking: dict[str, Any]) -> str:
    """Draw by settings, and ask about the first picture. Returns a digest of all pictures and the answer."""
    drawing = {"prompt": PROMPT} | drawing
    tokens = janus.generate(**drawing)
    config = janus.model.config
    height, width = (side * config.vq.downsampling for side in config.grid)
    pictures = janus.decode(tokens)
    assert pictures.shape == (drawing.get("count", 1), height, width, 3), pictures.shape
    assert bool(((pictures >= 0) & (pictures <= 1)).all())
    assert int(tokens.ids.min()) >= 0 and int(tokens.ids.max()) < config.vq.codebook_size
    assert tokens.ids.shape[1] == math.prod(config.grid)
    asking = {"question": QUESTION, "images": pictures[:1]} | asking
    answer = janus.answer(**asking)
    assert isinstance(answer, str)
    return hashlib.sha256(pictures.numpy().tobytes() + answer.encode()).hexdigest()


@cache
def _tiny() -> Janus:
    return janus_core.load(DATA / "tiny_deepseek")


def use_settings(drawing: dict[str, Any], asking: dict[str, Any], nan_at: tuple[int, ...] | None = None) -> str:
    """`draw_and_ask` with the tiny model; then the model must draw and answer as it did before."""
    janus = _tiny()
    before = _first()
    if nan_at is not None:
        asking = asking | {"images": torch.full(nan_at, math.nan)}
    try:
        return draw_and_ask(janus, drawing, asking)
    finally:
        assert draw_and_ask(janus, {}, {"max_new_tokens": 4}) == before, "the model is not what it was"


@cache
def _first() -> str:
    return draw_and_ask(_tiny(), {}, {"max_new_tokens": 4})
