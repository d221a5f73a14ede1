"""Codes that are kept, drawn anew, or drawn near a source's: exact with every sampler, in every batch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import janus_core
from janus_core import ImageTokens, InputError, code_mask, repaint, vary
from janus_core.generation.codes import Kept
from janus_core.generation.context import Context
from janus_core.mini.repainted import _changes, _reach

GRID = (6, 6)
PROMPT = "a red circle"
OWN: dict[str, Any] = {"seed": 5, "min_p": 0.0, "cfg_weight": 2.0, "temperature": 6.0}  # of `drawn`: wild
MIDDLE = torch.zeros(GRID, dtype=torch.bool)
MIDDLE[2:4, 1:5] = True


@pytest.fixture(scope="module")
def exact() -> janus_core.Janus:
    return janus_core.load(dtype=torch.float64)


@pytest.fixture(scope="module")
def drawn(exact: janus_core.Janus) -> ImageTokens:
    return exact.generate(PROMPT, 3, **OWN)


SETTINGS: list[dict[str, Any]] = [{}, {"cfg_weight": 1.0}, {"temperature": 0.0}, {"top_k": 9}, {"min_p": 0.0}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_codes_outside_the_mask_stay_and_both_samplers_draw_the_others_alike(
    exact: janus_core.Janus, drawn: ImageTokens, settings: dict[str, Any]
) -> None:
    found = [
        repaint(exact, drawn, MIDDLE, "two blue squares", seed=9, sampler=sampler, **settings).ids
        for sampler in ("jacobi", "sequential")
    ]
    assert torch.equal(*found)
    changed = (found[0] != drawn.ids).view(-1, *GRID)
    assert changed.any() and not changed[:, ~MIDDLE].any()


def test_a_picture_repainted_in_a_batch_is_the_one_repainted_alone(exact: janus_core.Janus, drawn: ImageTokens) -> None:
    batch = repaint(exact, drawn, MIDDLE, "two blue squares", seed=9, candidates=3).ids
    for i, ids in enumerate(drawn.ids):
        alone = repaint(exact, replace(drawn, ids=ids[None]), MIDDLE, "two blue squares", seed=9 + i, candidates=3).ids
        assert torch.equal(batch[i : i + 1], alone)


def test_the_pictures_own_seed_and_prompt_do_not_paint_the_same_again(
    exact: janus_core.Janus, drawn: ImageTokens
) -> None:
    assert not torch.equal(repaint(exact, drawn, MIDDLE, PROMPT, **OWN).ids, drawn.ids)


@pytest.mark.parametrize("sampler", ["sequential", "jacobi"])
@pytest.mark.parametrize("kept", [0, 1, 3])
def test_keeping_the_first_rows_goes_on_as_the_picture_was_drawn(
    exact: janus_core.Janus, drawn: ImageTokens, kept: int, sampler: str
) -> None:
    rest = torch.ones(GRID, dtype=torch.bool)
    rest[:kept] = False
    damaged = replace(drawn, ids=drawn.ids.masked_fill(rest.flatten(), 0))
    assert torch.equal(repaint(exact, damaged, rest, PROMPT, sampler=sampler, **OWN).ids, drawn.ids)


@pytest.mark.parametrize("sampler", ["sequential", "jacobi"])
def test_pictures_of_a_batch_may_keep_different_first_codes(
    exact: janus_core.Janus, drawn: ImageTokens, sampler: str
) -> None:
    rest = torch.arange(36).view(GRID) >= torch.tensor([4, 20, 36])[:, None, None]
    assert torch.equal(repaint(exact, drawn, rest, PROMPT, sampler=sampler, **OWN).ids, drawn.ids)


@pytest.mark.parametrize(
    ("sampler", "count", "passes"), [("sequential", 1, 18), ("sequential", 3, 18), ("jacobi", 1, 1)]
)
def test_the_first_codes_that_are_kept_are_read_in_one_pass(
    exact: janus_core.Janus,
    drawn: ImageTokens,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    count: int,
    passes: int,
) -> None:
    """One for 18 codes, and then as many as drawing the others takes."""
    lengths: list[int] = []
    step = Context.step

    def counted(context: Context, embeds: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        lengths.append(embeds.shape[1])
        return step(context, embeds, *more, **named)

    monkeypatch.setattr(Context, "step", counted)
    told: list[int] = []
    rest = torch.arange(36).view(GRID) >= 18
    some = replace(drawn, ids=drawn.ids[:count])
    repaint(exact, some, rest, PROMPT, sampler=sampler, progress=lambda step, *_: told.append(step), **OWN)
    assert lengths[0] == 18
    assert passes <= len(lengths) <= 18
    assert told == sorted(set(told)) and (told[0], told[-1]) == (18, 36)


def test_the_candidate_is_taken_after_which_the_kept_codes_are_likeliest(
    exact: janus_core.Janus, drawn: ImageTokens
) -> None:
    one = replace(drawn, ids=drawn.ids[:1])
    taken = repaint(exact, one, MIDDLE, "a blue circle", seed=3, candidates=6, min_p=0.0).ids

    def chance(ids: torch.Tensor) -> float:
        """Of the kept codes, from the model read without a cache."""
        prompt = exact.processor.drawing_prompt("a blue circle")
        text, codes = exact.model.embed_text(torch.tensor([prompt])), exact.model.embed_codes(ids)
        hidden = exact.model.language_model.model(torch.cat((text, codes), dim=1)[:, :-1])
        logits = exact.model.gen_head(hidden[:, len(prompt) - 1 :]).log_softmax(-1)
        return float(logits.gather(-1, ids[..., None])[0, ~MIDDLE.flatten()].sum())

    others = [
        repaint(exact, one, MIDDLE, "a blue circle", seed=3, candidates=k, min_p=0.0).ids for k in range(1, 6)
    ]  # the best of the first k
    chances = [chance(ids) for ids in others]
    assert chances == sorted(chances) and chance(taken) == max(chances) > min(chances)


@pytest.mark.parametrize("sampler", ["sequential", "jacobi"])
def test_the_likelihood_of_codes_that_are_all_kept_is_the_models(
    exact: janus_core.Janus, drawn: ImageTokens, sampler: str
) -> None:
    kept = Kept(drawn.ids, torch.zeros(drawn.ids.shape))
    again = exact.draw(exact.drawing_of(PROMPT, 3, kept=kept, sampler=sampler))
    assert torch.equal(again.ids, drawn.ids)
    prompt = exact.processor.drawing_prompt(PROMPT)
    text = exact.model.embed_text(torch.tensor([prompt] * 3))
    codes = exact.model.embed_codes(drawn.ids)
    hidden = exact.model.language_model.model(torch.cat((text, codes), dim=1)[:, :-1])
    expected = exact.model.gen_head(hidden[:, len(prompt) - 1 :]).log_softmax(-1).gather(-1, drawn.ids[..., None])
    torch.testing.assert_close(kept.likelihood, expected[..., 0].float(), atol=1e-4, rtol=0)


def test_nothing_masked_is_the_picture_and_all_masked_a_new_one(exact: janus_core.Janus, drawn: ImageTokens) -> None:
    assert torch.equal(repaint(exact, drawn, ~torch.ones(GRID, dtype=torch.bool), PROMPT).ids, drawn.ids)
    everything = repaint(exact, drawn, torch.ones(GRID, dtype=torch.bool), PROMPT, seed=8).ids
    assert torch.equal(everything, exact.generate(PROMPT, 3, seed=8).ids)


def test_strength_0_is_the_picture_and_strength_1_the_one_that_generate_draws(
    exact: janus_core.Janus, drawn: ImageTokens
) -> None:
    settings = {"seed": 8, "top_k": 3}
    assert torch.equal(vary(exact, drawn, "a blue circle", strength=0.0, **settings).ids, drawn.ids)
    freely = vary(exact, drawn, "a blue circle", strength=1.0, **settings).ids
    assert torch.equal(freely, exact.generate("a blue circle", 3, **settings).ids)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_variations_are_alike_with_both_samplers_and_change_more_with_strength(
    exact: janus_core.Janus, drawn: ImageTokens, settings: dict[str, Any]
) -> None:
    same = []
    for strength in (0.2, 0.8):
        found = [
            vary(exact, drawn, "a blue circle", strength=strength, seed=70, sampler=sampler, **settings).ids
            for sampler in ("sequential", "jacobi")
        ]
        assert torch.equal(*found)
        same.append(float((found[0] == drawn.ids).double().mean()))
    assert same[0] > same[1]


@pytest.mark.parametrize("side", [6, 7, 96, 200])
def test_a_mask_of_any_size_touches_the_codes_under_it(side: int) -> None:
    mask = torch.zeros(1, side, side)
    mask[0, 0, -1] = 1
    touched = torch.zeros(GRID, dtype=torch.bool)
    touched[0, 5] = True
    assert torch.equal(code_mask(mask, GRID)[0], touched)
    touched[:2, 4:] = True
    assert torch.equal(code_mask(mask, GRID, grow=1)[0], touched)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"mask": torch.ones(5, 6, dtype=torch.bool)}, "mask has shape"),
        ({"mask": torch.ones(2, 6, 6, dtype=torch.bool)}, "for each of the 3"),
        ({"mask": torch.ones(6, 6)}, "true or false"),
        ({"candidates": 0}, "candidates"),
        ({"cfg_weight": math.nan}, "CFG weight"),
    ],
)
def test_repainting_refuses_in_a_sentence(
    exact: janus_core.Janus, drawn: ImageTokens, changes: dict[str, Any], match: str
) -> None:
    given = {"mask": MIDDLE, "prompt": PROMPT} | changes
    with pytest.raises(InputError, match=match):
        repaint(exact, drawn, **given)


def test_tokens_of_another_size_or_model_and_other_strengths_are_refused(
    exact: janus_core.Janus, drawn: ImageTokens
) -> None:
    small = ImageTokens(drawn.ids[:, :30], (5, 6), drawn.codebook)
    for tokens, match in ((small, "5 x 6 codes"), (replace(drawn, codebook="0" * 16), "another model")):
        with pytest.raises(InputError, match=match):
            vary(exact, tokens, PROMPT)
    with pytest.raises(InputError, match="strength is 1.5"):
        vary(exact, drawn, PROMPT, strength=1.5)
    for mask in (torch.ones(2, 3, 4, 5), torch.full((1, 4, 4), math.nan)):
        with pytest.raises(InputError, match="mask"):
            code_mask(mask, GRID)


def test_a_change_reaches_as_far_as_half_of_the_pixels_there_show_it() -> None:
    before = torch.zeros(96, 96, 3)
    after = before.clone()
    after[29:67, 13:83] = 2 / 255  # 3 pixels around the middle
    after[:9, :9] = 1
    assert _reach([_changes(before, after, MIDDLE)]) == 3
    assert _reach([_changes(before, before, MIDDLE)]) == 0
