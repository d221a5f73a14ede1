"""Several candidates, of which the model keeps the best: which are drawn, which are dropped, and that each can be drawn again."""

from __future__ import annotations

import pytest
import torch

from janus_core import InputError
from janus_core.drawing_best import draw_best, drawing_best_need
from janus_core.generation.sampling import MAX_SEED
from janus_core.judging import matches, unfinished

PROMPT = "a red circle"
ROW, STEPS = 6, 36


def yes_from(monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    """The model's verdict on whole pictures is `score`; on unfinished ones, the later candidates look better."""

    def judge(janus, images, prompt, **_):
        grey = bool((images[:, -1] == 127 / 255).all())
        return torch.arange(len(images)) / 100 if grey else torch.full((len(images),), score)

    monkeypatch.setattr("janus_core.drawing_best.matches", judge)


@pytest.mark.parametrize("settings", [{}, {"cfg_weight": 1.0}, {"temperature": 3.0, "top_k": 40}], ids=str)
def test_every_finished_candidate_is_the_one_that_generate_draws_with_its_seed(janus64, settings):
    best = draw_best(janus64, PROMPT, seed=11, candidates=4, kept=0.5, **settings)
    finished = [candidate for candidate in best.candidates if candidate.finished]
    assert len(finished) == 2
    for candidate in finished:
        again = janus64.generate(PROMPT, seed=candidate.seed, **settings)
        torch.testing.assert_close(janus64.decode(again)[0], candidate.picture)
    [own] = [candidate.seed for candidate in finished if candidate.score == best.score]
    assert torch.equal(janus64.generate(PROMPT, seed=own, **settings).ids, best.tokens.ids)
    assert best.score == pytest.approx(matches(janus64, best.picture, PROMPT).item())


def test_the_most_promising_go_on_and_the_others_are_shown_as_far_as_they_got(janus64):
    whole = janus64.generate(PROMPT, 4, seed=11)
    parts = unfinished(janus64, whole.ids[:, : 3 * ROW])
    promise = matches(janus64, parts, PROMPT)
    best = draw_best(janus64, PROMPT, seed=11, candidates=4, kept=0.5)
    assert [c.seed for c in best.candidates] == [11, 12, 13, 14]
    left = sorted(promise.argsort(descending=True)[:2].tolist())
    assert [i for i, c in enumerate(best.candidates) if c.finished] == left
    for i, candidate in enumerate(best.candidates):
        if not candidate.finished:
            assert candidate.score == pytest.approx(promise[i].item())
            torch.testing.assert_close(candidate.picture, parts[i])


def test_dropping_takes_fewer_codes_than_all_candidates(janus64):
    assert draw_best(janus64, PROMPT, candidates=4).codes == 4 * 3 * ROW + 3 * ROW < 4 * STEPS
    assert draw_best(janus64, PROMPT, candidates=4, judged_at=1).codes == 4 * STEPS
    assert draw_best(janus64, PROMPT, candidates=1).codes == STEPS


def test_it_tries_again_until_the_model_says_yes(janus64, monkeypatch):
    yes_from(monkeypatch, 0.4)
    no = draw_best(janus64, PROMPT, seed=7, candidates=3, tries=3)
    assert [c.seed for c in no.candidates] == list(range(7, 16))
    assert no.score == pytest.approx(0.4) and no.codes == 3 * (3 * 3 * ROW + 3 * ROW)
    yes_from(monkeypatch, 0.6)
    assert [c.seed for c in draw_best(janus64, PROMPT, seed=7, candidates=3, tries=3).candidates] == [7, 8, 9]


def test_seeds_go_on_after_the_largest_as_those_of_a_batch_do(janus64):
    best = draw_best(janus64, PROMPT, seed=MAX_SEED, candidates=2, judged_at=1)
    assert [c.seed for c in best.candidates] == [MAX_SEED, 0]
    batch = janus64.decode(janus64.generate(PROMPT, 2, seed=MAX_SEED))
    torch.testing.assert_close(torch.stack([c.picture for c in best.candidates]), batch)


def test_it_is_sequential_whatever_the_sampler_and_each_try_has_its_own_progress(janus64, monkeypatch):
    yes_from(monkeypatch, 0.1)
    seen = []
    draw_best(
        janus64,
        PROMPT,
        candidates=2,
        tries=2,
        sampler="jacobi",
        window=4,
        progress=lambda attempt: lambda step, total, ids: seen.append((attempt, step, total, len(ids))),
    )
    assert [(attempt, step) for attempt, step, _, _ in seen] == [(t, s) for t in (0, 1) for s in range(1, STEPS + 1)]
    assert {count for _, step, _, count in seen if step <= 3 * ROW} == {2}
    assert {count for _, step, _, count in seen if step > 3 * ROW} == {1}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"candidates": 0}, "candidates is 0"),
        ({"tries": 0}, "tries is 0"),
        ({"judged_at": 0.0}, "judged_at is 0"),
        ({"kept": 1.5}, "kept is 1.5"),
        ({"prompt": " "}, "empty"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused_in_a_sentence(janus, changes, match):
    with pytest.raises(InputError, match=match):
        draw_best(janus, **{"prompt": PROMPT} | changes)


def test_the_need_covers_drawing_decoding_and_judging(janus):
    need = drawing_best_need(janus, PROMPT, candidates=4)
    drawing, decoding = janus.drawing_need(PROMPT, 4), janus.decoding_need()
    assert {*drawing.parts, *decoding.parts} < {*need.parts}
    assert need.bytes > drawing.bytes + decoding.bytes
