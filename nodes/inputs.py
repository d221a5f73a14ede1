"""Inputs that several nodes share, and schema options that only newer ComfyUI versions know."""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

from ..janus_core import ImageTokens, InputError
from ..janus_core.conversation import Conversation
from ..janus_core.generation.sampling import MAX_SEED
from ..janus_core.pipeline import SAMPLERS
from .host.weights import HostedJanus
from .types import JanusType, SamplingSettings

# Marks an input that newer ComfyUI versions fold away.
ADVANCED: dict[str, Any] = {"advanced": True} if "advanced" in inspect.signature(io.Int.Input).parameters else {}

MODEL = JanusType.Input("janus", tooltip="The model, from Load Janus.")
MAX_TOKENS = io.Int.Input(
    "max_tokens",
    default=256,
    min=1,
    max=8192,
    tooltip="The longest answer allowed, in tokens; a token is about three quarters of a word.",
)
ANSWER_TEMPERATURE = io.Float.Input(
    "temperature",
    default=0.0,
    min=0.0,
    max=2.0,
    step=0.05,
    tooltip="0 always picks the most likely token, so the answer is the same each time. Higher values vary the wording with "
    "the seed.",
)
FRAMES = io.Int.Input(
    "frames",
    default=0,
    min=0,
    max=1000,
    optional=True,
    tooltip="For a video: ask about this many of its pictures, evenly spread, all in one question such as: what happens? "
    "Fewer are taken if the model holds no more. 0 is no video.",
    **ADVANCED,
)
CFG = io.Float.Input(
    "cfg",
    default=5.0,
    min=1.0,
    max=30.0,
    step=0.05,
    tooltip="How strictly to follow the prompt. 1 is loose and fastest, 5 is usual, much more looks harsh.",
)
DRAWING_TEMPERATURE = io.Float.Input(
    "temperature",
    default=1.0,
    min=0.0,
    max=2.0,
    step=0.05,
    tooltip="How freely to choose. Higher is more varied, lower calmer and plainer; 0 always takes the most "
    "likely token, so that all seeds give the same picture.",
)

# What the inputs of the pack's nodes must be: ComfyUI lets other packs' nodes and API requests give anything.
_TEXT, _WHOLE, _NUMBER = (str, "text"), (numbers.Integral, "a whole number"), (numbers.Real, "a number")
KINDS: dict[str, tuple[type, str]] = {
    "janus": (HostedJanus, "a model from Load Janus"),
    **dict.fromkeys(
        ("tokens", "tokens_1", "tokens_2"), (ImageTokens, "picture tokens from Janus Text-to-Image or VQ Encode")
    ),
    "history": (Conversation, "the history of another Janus Chat"),
    **dict.fromkeys(("draw", "force"), (bool, "on or off")),
    "sampling": (SamplingSettings, "the output of Janus Sampling"),
    "image": (torch.Tensor, "pictures"),
    "original": (torch.Tensor, "pictures"),
    "mask": (torch.Tensor, "a mask"),
    **dict.fromkeys(
        ("checkpoint", "dialect", "dtype", "file", "filename", "filename_prefix", "fit", "lora", "message"), _TEXT
    ),
    "kind": _TEXT,
    **dict.fromkeys(("instruction", "prompt", "question", "sampler", "thinking"), _TEXT),
    **dict.fromkeys(("existing", "folder", "output_folder", "prefix", "preset", "suffix", "trigger"), _TEXT),
    **dict.fromkeys(("batch_size", "drop_turns", "index", "length", "max_tokens", "seed", "top_k", "window"), _WHOLE),
    **dict.fromkeys(("candidates", "edge", "frames", "grow", "keep", "tries"), _WHOLE),
    **dict.fromkeys(("cfg", "cfg_end", "cfg_power", "entropy_temperature", "image_cfg", "min_p"), _NUMBER),
    **dict.fromkeys(("strength", "temperature", "top_p"), _NUMBER),
}


def check_kind(name: str, value: object) -> None:
    """Raise InputError if an input is not of the kind that KINDS has for its name."""
    kind, description = KINDS[name]
    truth = isinstance(value, bool)  # which Python counts among the whole numbers
    if not isinstance(value, kind) or (truth and kind is not bool):
        plain = value is None or isinstance(value, str | int | float)  # the others may be large
        given = repr(value)[:60] if plain else f"of the type {type(value).__name__}"
        raise InputError(f"The input {name} is {given} and must be {description}: connect or enter that.")


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's `execute` that first checks what it is given by KINDS. An optional input may be None."""
    parameters = inspect.signature(execute).parameters

    @functools.wraps(execute)
    def check_then_execute(*values: Any, **named: Any) -> io.NodeOutput:
        given = dict(zip(parameters, values, strict=False)) | named
        for name, value in given.items():
            if name in KINDS and not (value is None and parameters[name].default is None):
                check_kind(name, value)
        return execute(*values, **named)

    return check_then_execute


def text_box(name: str, **options: Any) -> io.String.Input:
    """Several lines of text. `{day|night}` in it is a choice that the canvas makes."""
    return io.String.Input(name, multiline=True, dynamic_prompts=True, **options)


def seed(tooltip: str, *, control_after_generate: bool) -> io.Int.Input:
    """A seed of 64 bits. With `control_after_generate` the canvas changes it after each run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=control_after_generate, tooltip=tooltip
    )


def choosing_tokens(*, overruled: bool) -> list[io.Input]:
    """Inputs top_k, top_p, sampler and window. `overruled`: a Janus Sampling may be connected, which counts instead."""
    note = " A connected Janus Sampling overrules this." if overruled else ""
    options: dict[str, Any] = ADVANCED if overruled else {}
    return [
        io.Int.Input(
            "top_k",
            default=0,
            min=0,
            max=16384,
            tooltip=f"Consider only this many most likely tokens. 0 considers all, as in training.{note}",
            **options,
        ),
        io.Float.Input(
            "top_p",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="Keep only the most likely tokens, up to this total probability: 0.9 keeps those that make up 90 %, 1 "
            f"keeps all.{note}",
            **options,
        ),
        io.Combo.Input(
            "sampler",
            options=list(SAMPLERS),
            default=SAMPLERS[0],
            optional=overruled,
            tooltip="How to sample. Pictures are the same apart from rare rounding differences. Sequential draws one token "
            "after the other. Jacobi guesses several ahead and keeps those that are right, which can be faster for one or "
            f"two pictures of plain subjects.{note}",
            **options,
        ),
        io.Int.Input(
            "window",
            default=8,
            min=1,
            max=64,
            optional=overruled,
            tooltip="For jacobi: how many tokens to guess ahead. More finds longer stretches, but makes each step "
            f"heavier.{note}",
            **options,
        ),
    ]


def problem_of(*checks: Callable[[], object]) -> bool | str:
    """What `validate_inputs` returns: the sentence of the first check that raises ValueError, else True."""
    try:
        for check in checks:
            check()
    except ValueError as error:
        return str(error)
    return True


def search_aliases(*words: str) -> dict[str, Any]:
    """More words to find a node by, as arguments of its Schema; empty where ComfyUI does not know `search_aliases`."""
    return _known(search_aliases=["deepseek", *words])


def shown_from_cache() -> dict[str, Any]:
    """Marks, in a Schema, a node whose `ui` is sent and kept in the history also when its run comes from the cache.

    Empty where ComfyUI does not know `has_intermediate_output`. Output nodes do not need it.
    """
    return _known(has_intermediate_output=True)


def _known(**options: Any) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(io.Schema)}
    return {name: value for name, value in options.items() if name in names}
