"""Editing pictures: batches, samplers and recorded steps draw each picture's own single, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import CPU, record_on_tapes

import janus_core
from janus_core import InputError, editing
from janus_core.generation.codes import FEATURE
from janus_core.generation.image import draw_codes
from janus_core.generation.jacobi import draw_codes_jacobi

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
WORDS = "Make it night."


@pytest.fixture(scope="module")
def editor() -> janus_core.Janus:
    """In float64, where rounding never decides a draw."""
    return janus_core.load(TINY, dtype=torch.float64, dialect="Janus-4o")


@pytest.mark.parametrize(
    "settings", [{}, {"cfg_weight": 1.0}, {"image_weight": 0.0}, {"sampler": "jacobi", "window": 4}, {"min_p": 0.05}]
)
def test_each_picture_of_a_batch_is_its_own_single(editor, pictures, settings):
    images = pictures(3, side=80)
    together = janus_core.edit(editor, images, WORDS, seed=5, **settings).ids.tolist()
    alone = [
        janus_core.edit(editor, images[i : i + 1], WORDS, seed=5 + i, **settings).ids[0].tolist() for i in range(3)
    ]
    assert together == alone
    assert len({tuple(row) for row in together}) == 3


def test_jacobi_draws_the_sequential_sampler_s_codes(editor, pictures):
    plain = janus_core.edit(editor, pictures(2), WORDS, seed=5)
    assert torch.equal(janus_core.edit(editor, pictures(2), WORDS, seed=5, sampler="jacobi", window=5).ids, plain.ids)


@pytest.mark.parametrize(("draw", "window"), [(draw_codes, 1), (draw_codes_jacobi, 3)])
def test_recorded_steps_draw_the_same(editor, pictures, monkeypatch, draw, window):
    images = pictures(2)
    expected = janus_core.edit(editor, images, WORDS, seed=5).ids
    drawing = replace(editing.editing_of(editor, editing.show(editor, images), WORDS, seed=5), window=window)
    tapes = record_on_tapes(monkeypatch, bucket=7)
    assert torch.equal(draw(editor.model, drawing, replace(CPU, graphs=True)), expected)
    assert tapes


def test_the_picture_the_words_and_both_weights_count(editor, pictures):
    plain: dict[str, Any] = {"images": pictures(1), "instruction": WORDS, "seed": 5}
    changes = (
        {"images": pictures(1, seed=1)},
        {"instruction": "Make it red."},
        {"image_weight": 1.0},
        {"cfg_weight": 2.0},
    )
    drawn = [janus_core.edit(editor, **(plain | change)).ids.tolist() for change in ({}, *changes)]
    assert all(drawn[0] != other for other in drawn[1:])


def test_weights_that_were_not_trained_for_it_are_refused_unless_forced(janus, pictures):
    with pytest.raises(InputError, match="those of Janus-4o-7B were"):
        janus_core.edit(janus, pictures(1), WORDS)
    assert len(janus_core.edit(janus, pictures(1), WORDS, force=True)) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"instruction": " \n"}, "instruction is empty"),
        ({"images": torch.rand(1, 8, 8, 4)}, "pictures have shape"),
        ({"image_weight": -1.0}, "image weight is -1.0"),
        ({"image_weight": float("nan")}, "image weight is nan"),
        ({"cfg_weight": float("inf")}, "CFG weight is inf"),
        ({"instruction": "red " * 2000}, "the model holds"),
    ],
)
def test_bad_input_is_one_sentence(editor, pictures, change, says):
    given: dict[str, Any] = {"images": pictures(1), "instruction": WORDS} | change
    with pytest.raises(InputError, match=says):
        janus_core.edit(editor, **given)


def test_special_tokens_in_an_instruction_are_text(editor):
    processor = editor.processor
    ids = processor.editing_prompt("<begin_of_image><image_placeholder><|User|>", 36)
    assert ids.count(FEATURE) == 72 and processor.image not in ids and ids.count(processor.begin_of_image) == 3
