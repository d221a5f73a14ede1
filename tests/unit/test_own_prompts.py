"""A drawing with a prompt for each picture: every picture is the one that its own prompt draws alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from recorded import CPU, record_on_tapes

from janus_core.generation.codes import HIDDEN
from janus_core.generation.image import draw_codes
from janus_core.generation.jacobi import draw_codes_jacobi
from janus_core.model.llama import rope_table

PROMPTS = ("the red cat is in the boat", "an owl", "a photo of two stone towers, at night, from above")
WAYS: list[dict[str, Any]] = [{}, {"cfg_weight": 1.0}, {"min_p": 0.05}, {"sampler": "jacobi", "window": 4}]


def together(janus, **settings):
    own = tuple(janus.processor.drawing_prompt(prompt) for prompt in PROMPTS)
    return janus.drawing_of(PROMPTS[0], len(own), seed=5, prompts=own, **settings)


def alone(janus, **settings) -> list[list[int]]:
    return [janus.generate(p, seed=5 + i, **settings).ids[0].tolist() for i, p in enumerate(PROMPTS)]


@pytest.mark.parametrize("settings", WAYS)
def test_each_picture_is_its_own_prompt_s_single(janus64, settings):
    assert janus64.draw(together(janus64, **settings)).ids.tolist() == alone(janus64, **settings)


def test_prompts_of_one_length_need_no_pads(janus64):
    words = ("7 + 1", "5 - 2")
    own = tuple(map(janus64.processor.drawing_prompt, words))
    assert len({*map(len, own)}) == 1
    drawn = janus64.draw(janus64.drawing_of(words[0], 2, prompts=own, seed=1)).ids.tolist()
    assert drawn == [janus64.generate(word, seed=1 + i).ids[0].tolist() for i, word in enumerate(words)]


@pytest.mark.parametrize(("draw", "window"), [(draw_codes, 1), (draw_codes_jacobi, 3)])
def test_recorded_steps_draw_the_same(janus64, monkeypatch, draw, window):
    expected = alone(janus64)
    tapes = record_on_tapes(monkeypatch, bucket=7)
    drawing = replace(together(janus64), window=window)
    assert draw(janus64.model, drawing, replace(CPU, graphs=True)).tolist() == expected
    assert tapes


def test_a_place_left_out_is_not_looked_at_and_counts_as_a_position(janus64):
    """The prompt with a place left out, against a pass without cache over the same tokens at the same positions."""
    ids = janus64.processor.drawing_prompt("an owl")
    gap = [*ids[:4], HIDDEN, *ids[4:]]
    drawing = janus64.drawing_of("an owl", 1, prompts=(gap,), cfg_weight=1.0, temperature=0.0)
    drawn = janus64.draw(drawing).ids
    kept = [*range(4), *range(5, len(gap))]
    positions = torch.tensor([*kept, *range(len(gap), len(gap) + drawn.shape[1] - 1)])
    model, llama = janus64.model, janus64.model.language_model.model
    cos, sin = rope_table(positions[None], llama.config.head_dim, llama.config.rope_theta, torch.float64)
    with torch.no_grad():
        embeds = torch.cat((model.embed_text(torch.tensor([ids])), model.embed_codes(drawn[:, :-1])), dim=1)
        hidden = llama(embeds, (cos, sin))
        assert model.gen_head(hidden[:, len(ids) - 1 :]).argmax(-1).tolist() == drawn.tolist()
