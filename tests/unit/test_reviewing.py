"""A model that looks at its own pictures and draws those again that it says No to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import janus_core
from janus_core import InputError, reviewing

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
PROMPT = "a red cat in a boat"


@pytest.fixture(scope="module")
def critic() -> janus_core.Janus:
    """In float64, where rounding never decides a draw."""
    return janus_core.load(TINY, dtype=torch.float64, dialect="Janus-Pro-R1")


@pytest.fixture(scope="module")
def drawn(critic):
    return critic.generate(PROMPT, 4, seed=3)


def test_a_picture_s_verdict_does_not_depend_on_the_others(critic, drawn):
    verdicts = reviewing.review(critic, PROMPT, drawn, seed=3)
    for i, verdict in enumerate(verdicts):
        alone = reviewing.review(critic, PROMPT, reviewing.picked(drawn, i), seed=3 + i)
        assert alone == [verdict]
        assert 0 < verdict.probability < 1 and len(verdict.ids) <= reviewing.MAX_TOKENS


def test_only_what_it_says_no_to_is_drawn_again(critic, drawn, monkeypatch):
    verdicts = [replace(v, yes=i % 2 == 0) for i, v in enumerate(reviewing.review(critic, PROMPT, drawn, seed=3))]
    monkeypatch.setattr(reviewing, "review", lambda *args, **named: verdicts)
    second, said = reviewing.redraw(critic, PROMPT, drawn, seed=3)
    assert said == verdicts
    assert [torch.equal(a, b) for a, b in zip(second.ids, drawn.ids, strict=True)] == [True, False, True, False]


@pytest.mark.parametrize("settings", [{}, {"cfg_weight": 1.0}, {"sampler": "jacobi", "window": 4}])
def test_second_pictures_of_a_batch_are_their_own_singles(critic, drawn, settings):
    verdicts = reviewing.review(critic, PROMPT, drawn, seed=3)
    verdicts = [replace(v, ids=v.ids[: 3 + 5 * i], ended=i % 2 == 0) for i, v in enumerate(verdicts)]
    together = critic.draw(reviewing.second_drawing(critic, PROMPT, drawn, verdicts, seed=3, **settings)).ids
    for i, verdict in enumerate(verdicts):
        one = reviewing.picked(drawn, i)
        alone = critic.draw(reviewing.second_drawing(critic, PROMPT, one, [verdict], seed=3 + i, **settings))
        assert torch.equal(alone.ids[0], together[i])


def test_other_weights_are_refused(janus):
    with pytest.raises(InputError, match="those of Janus-Pro-R1-7B were"):
        reviewing.review(janus, PROMPT, janus.generate(PROMPT))
