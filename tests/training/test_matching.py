"""Questions whether a description matches: near misses are wrong, matches are right, and parts may still become right."""

from pathlib import Path

import numpy as np
import pytest
import torch

import janus_core
from janus_core.judging import question_about, unfinished
from janus_core.mini.codes import CODE_SIDE, GRID
from janus_core.mini.judge import follows
from janus_core.mini.judged import calibration_error
from janus_core.mini.matching import MISSES, can_become, damaged, matching_questions, near_miss, upper_part
from janus_core.mini.prompts import drawing_prompt
from janus_core.mini.request import Request, Wanted
from janus_core.mini.vocabulary import UNKNOWN, build_tokenizer
from janus_core.mini.world import Scene, Thing, held_out_combinations, render, sample_group_sizes, sample_scene

CIRCLE, SQUARE = Thing("circle", "red", "large", 1), Thing("square", "blue", "small", 6)
BOTH = Scene("white", (CIRCLE, SQUARE))


def scenes(seed: int, count: int) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, sample_group_sizes(rng)) for _ in range(count)]


@pytest.mark.parametrize("kind", MISSES)
def test_a_near_miss_is_wrong_and_a_scenes_own_prompt_right_as_the_pixel_judge_sees_them(kind: str):
    rng, found = np.random.default_rng(1), 0
    for scene in scenes(0, 60):
        picture = render(scene)
        assert follows(picture, drawing_prompt(scene, rng)[1])
        if miss := near_miss(kind, scene, rng):
            found += 1
            assert not follows(picture, miss[1]), (scene, miss)
    assert found > 10


@pytest.mark.parametrize(
    ("rows", "wanted", "possible"),
    [
        (2, (Wanted("circle"), Wanted("square", "blue")), True),
        (2, (Wanted("circle"), Wanted("ring")), True),  # it may still come
        (2, (Wanted("ring"), Wanted("square")), False),  # a circle is there already
        (2, (Wanted("circle"), Wanted("ring", cell=0)), False),  # too late for that place
        (2, (Wanted("circle"), Wanted("ring", cell=8)), True),
        (2, (Wanted("circle"),), True),
        (6, (Wanted("circle"),), False),
        (6, (Wanted("circle"), Wanted("square", size="small", cell=6)), True),
        (6, (Wanted("circle"), Wanted("square", size="large")), False),
    ],
)
def test_what_the_upper_part_of_a_picture_can_become(rows: int, wanted: tuple[Wanted, ...], possible: bool):
    assert can_become(BOTH, Request(wanted), rows) == possible


def test_relations_and_grounds_are_judged_in_parts_too():
    pair = Wanted("circle"), Wanted("square")
    assert can_become(BOTH, Request(pair, "above"), 2) and not can_become(BOTH, Request(pair, "below"), 2)
    assert not can_become(BOTH, Request(pair, "left of")) and can_become(BOTH, Request(pair, "right of"))
    assert can_become(BOTH, Request(pair, background="white"), 1)
    assert not can_become(BOTH, Request(pair, background="black"), 1)


def test_a_part_that_can_become_what_is_asked_for_stays_so_with_fewer_rows():
    rng = np.random.default_rng(3)
    for scene in scenes(2, 30):
        for _, request in (drawing_prompt(other, rng) for other in (scene, *scenes(4, 5))):
            possible = [can_become(scene, request, rows) for rows in range(1, GRID + 1)]
            assert possible == sorted(possible, reverse=True)


def test_a_part_looks_as_an_unfinished_drawing_does(tiny_folder: Path):
    scene = scenes(5, 1)[0]
    part = unfinished(janus_core.load(tiny_folder), torch.zeros(1, 2 * GRID, dtype=torch.long))[0]
    own = upper_part(render(scene), 2)
    assert part.shape == own.shape
    assert (own[2 * CODE_SIDE :] == 127).all() and (part[2 * CODE_SIDE :] * 255 == 127).all()


def test_a_damaged_object_changes_one_cell_only():
    rng = np.random.default_rng(6)
    for scene in scenes(7, 20):
        changed = (damaged(scene, rng) != render(scene)).any(-1)
        assert changed.reshape(3, 32, 3, 32).any(axis=(1, 3)).sum() <= 1


def test_training_questions_are_answered_rightly_about_both_and_in_known_words():
    rng, tokenizer, answers = np.random.default_rng(8), build_tokenizer(), []
    for _ in range(200):
        exchanges, scene, picture = matching_questions(rng)
        assert picture.shape == (96, 96, 3) and not held_out_combinations(scene)
        for exchange in exchanges:
            assert UNKNOWN not in tokenizer.encode(exchange.question).tokens, exchange.question
            answers.append(exchange.answer)
    assert set(answers) == {"yes", "no"} and 0.35 < answers.count("yes") / len(answers) < 0.65


def test_the_question_is_in_the_vocabulary():
    assert UNKNOWN not in build_tokenizer().encode(question_about("a red circle")).tokens


def test_the_calibration_error_is_that_of_the_bins():
    sure = np.array([0.95] * 10 + [0.05] * 10)
    assert calibration_error(sure, np.array([True] * 10 + [False] * 10)) == pytest.approx(0.05)
    assert calibration_error(sure, np.array([False] * 10 + [True] * 10)) == pytest.approx(0.95)
