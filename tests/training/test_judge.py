"""The pixel judge is right on rendered truth and refuses pictures that are wrong, whatever is wrong with them."""

from dataclasses import replace

import numpy as np
import pytest

from janus_core.mini.judge import follows, read
from janus_core.mini.prompts import drawing_prompt
from janus_core.mini.request import Request, Wanted
from janus_core.mini.world import COLOURS, SHAPES, Scene, Thing, render, sample_group_sizes, sample_scene

TRIALS = 400


def scenes(seed: int, count: int = TRIALS) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, sample_group_sizes(rng), held_out=bool(i % 2)) for i in range(count)]


def in_full(scene: Scene) -> Request:
    wanted = tuple(Wanted(t.shape, t.colour, t.size, t.cell) for t in scene.things)
    return Request(wanted, background=scene.background)


def test_rendered_truth_passes():
    rng = np.random.default_rng(1)
    passed = [follows(render(s), r) for s in scenes(0) for r in (in_full(s), drawing_prompt(s, rng)[1])]
    assert np.mean(passed) >= 0.99


def other(options: tuple[str, ...], this: str, rng: np.random.Generator) -> str:
    return [o for o in options if o != this][int(rng.integers(len(options) - 1))]


def spoil(scene: Scene, how: str, rng: np.random.Generator) -> Scene:
    """The scene with one thing wrong."""
    first, *rest = scene.things
    taken = {thing.cell for thing in scene.things}
    free = [cell for cell in range(9) if cell not in taken]
    change = {
        "colour": lambda: (replace(first, colour=other(tuple(COLOURS), first.colour, rng)), *rest),
        "shape": lambda: (replace(first, shape=other(SHAPES, first.shape, rng)), *rest),
        "size": lambda: (replace(first, size="small" if first.size == "large" else "large"), *rest),
        "place": lambda: (replace(first, cell=free[int(rng.integers(len(free)))]), *rest),
        "one too many": lambda: (*scene.things, replace(first, cell=free[0])),
        "one missing": lambda: tuple(rest),
    }
    return Scene(scene.background, change[how]())


@pytest.mark.parametrize("how", ["colour", "shape", "size", "place", "one too many", "one missing"])
def test_a_picture_with_one_thing_wrong_is_refused(how: str):
    rng = np.random.default_rng(2)
    refused = [not follows(render(spoil(scene, how, rng)), in_full(scene)) for scene in scenes(3)]
    assert np.mean(refused) >= 0.99


def test_noise_and_an_empty_picture_are_refused():
    request = Request((Wanted("circle"),))
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    assert not follows(noise, request)
    assert not follows(np.full((96, 96, 3), 244, np.uint8), request)


def test_two_objects_with_their_colours_swapped_are_refused():
    red_circle, blue_square = Thing("circle", "red", "large", 0), Thing("square", "blue", "large", 8)
    swapped = (replace(red_circle, colour="blue"), replace(blue_square, colour="red"))
    request = Request((Wanted("circle", "red"), Wanted("square", "blue")))
    assert follows(render(Scene("white", (red_circle, blue_square))), request)
    assert not follows(render(Scene("white", swapped)), request)


@pytest.mark.parametrize(
    ("relation", "cells"), [("left of", (3, 5)), ("right of", (2, 1)), ("above", (0, 8)), ("below", (7, 4))]
)
def test_relations_are_distinguished_from_their_opposites(relation: str, cells: tuple[int, int]):
    def picture(a: int, b: int) -> np.ndarray:
        return render(Scene("black", (Thing("cross", "green", "small", a), Thing("ring", "yellow", "small", b))))

    request = Request((Wanted("cross"), Wanted("ring")), relation)
    assert follows(picture(*cells), request)
    assert not follows(picture(*reversed(cells)), request)


def test_every_word_of_a_picture_is_read():
    scene = Scene("dotted", (Thing("ring", "orange", "small", 2), Thing("triangle", "purple", "large", 6)))
    background, seen = read(render(scene))
    assert background == "dotted"
    found = {(s.shape, s.colour, s.size, s.cell) for s in seen}
    assert found == {("ring", "orange", "small", 2), ("triangle", "purple", "large", 6)}
