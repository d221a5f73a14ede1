"""Does a picture match a description? Near misses, damaged objects, and what the upper part of a picture can become."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import numpy as np

from ..judging import UNSEEN, question_about
from .codes import CODE_SIDE, GRID
from .judge import follows
from .prompts import drawing_prompt, pick
from .questions import Exchange
from .request import Request, fits, relation_holds
from .world import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    cell_centre,
    held_out_combinations,
    in_reading_order,
    render,
    sample_group_sizes,
    sample_scene,
)

MAX_THINGS = 4
QUESTIONS_A_PICTURE = 3  # more would let a model compare descriptions with each other and not with the picture
WHOLE_SHARE, PART_SHARE = 0.75, 0.2  # of the pictures; in the others one object is damaged
SIMPLE_SHARE = 0.6  # of the scenes, to the end: without them nothing was learned in 800 steps


def _recoloured(scene: Scene, rng: np.random.Generator) -> Scene:
    return _group_changed(scene, rng, colour=pick(rng, tuple(COLOURS)))


def _reshaped(scene: Scene, rng: np.random.Generator) -> Scene:
    return _group_changed(scene, rng, shape=pick(rng, SHAPES))


def _resized(scene: Scene, rng: np.random.Generator) -> Scene:
    return _group_changed(scene, rng, size=pick(rng, tuple(SIZES)))


def _group_changed(scene: Scene, rng: np.random.Generator, **change: str) -> Scene:
    """One object, and those that look like it, with another shape, colour or size."""
    look = pick(rng, scene.things).look
    return replace(scene, things=tuple(replace(t, **change) if t.look == look else t for t in scene.things))


def _recounted(scene: Scene, rng: np.random.Generator) -> Scene:
    """One object more or less; a new one looks like one that is there."""
    things = list(scene.things)
    if len(things) == MAX_THINGS or (len(things) > 1 and rng.random() < 0.5):
        things.pop(int(rng.integers(len(things))))
    else:
        things.append(replace(pick(rng, things), cell=_empty_cell(scene, rng)))
    return replace(scene, things=in_reading_order(things))


def _moved(scene: Scene, rng: np.random.Generator) -> Scene:
    things = list(scene.things)
    index = int(rng.integers(len(things)))
    things[index] = replace(things[index], cell=_empty_cell(scene, rng))
    return replace(scene, things=in_reading_order(things))


def _empty_cell(scene: Scene, rng: np.random.Generator) -> int:
    return pick(rng, sorted({*range(len(PLACES))} - {thing.cell for thing in scene.things}))


def _repaired(scene: Scene, rng: np.random.Generator) -> Scene:
    """Two objects exchange one of shape, colour, size and place."""
    if len(scene.things) == 1:
        return scene
    first, second = rng.permutation(len(scene.things))[:2]
    name = pick(rng, ("shape", "colour", "size", "cell"))
    things = list(scene.things)
    for one, other in ((first, second), (second, first)):
        things[one] = replace(scene.things[one], **{name: getattr(scene.things[other], name)})
    return replace(scene, things=in_reading_order(things))


def _on_another_ground(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace(scene, background=pick(rng, BACKGROUNDS))


def _another(scene: Scene, rng: np.random.Generator) -> Scene:
    return sample_scene(rng, sample_group_sizes(rng))


MISSES: dict[str, Callable[[Scene, np.random.Generator], Scene]] = {
    "colour": _recoloured,
    "shape": _reshaped,
    "size": _resized,
    "count": _recounted,
    "place": _moved,
    "pairing": _repaired,
    "background": _on_another_ground,
}


def can_become(scene: Scene, request: Request, rows: int = GRID) -> bool:
    """Whether a picture whose first `rows` rows of codes are the scene's can still show what is asked for.

    An object of which a part can be seen is taken as seen. With all rows: whether the scene is what is asked for.
    """
    seen = [thing for thing in scene.things if _first_row(thing.cell) < rows]
    hidden = [cell for cell in range(len(PLACES)) if _first_row(cell) >= rows]
    count = len(request.things)
    if request.background not in (None, scene.background) or len(seen) > count:
        return False
    for order in permutations(range(count), len(seen)):
        if not all(fits(request.things[i], thing) for i, thing in zip(order, seen, strict=True)):
            continue
        missing = [i for i in range(count) if i not in order]
        for cells in permutations(hidden, len(missing)):
            at = dict(zip(order, (thing.cell for thing in seen), strict=True)) | dict(zip(missing, cells, strict=True))
            placed = all(request.things[i].cell in (None, at[i]) for i in missing)
            if placed and (
                request.relation is None or relation_holds(request.relation, cell_centre(at[0]), cell_centre(at[1]))
            ):
                return True
    return False


def _first_row(cell: int) -> int:
    """The first row of codes that shows something of a cell."""
    return cell // 3 * (CELL // CODE_SIDE)


def upper_part(picture: np.ndarray, rows: int) -> np.ndarray:
    """A picture uint8 [SIDE, SIDE, 3] of which `rows` rows of codes are drawn, as `judging` shows it."""
    part = picture.copy()
    part[rows * CODE_SIDE :] = UNSEEN
    return part


def damaged(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene's picture, with one to three of an object's four codes from another object: uint8 [SIDE, SIDE, 3]."""
    picture = render(scene)
    index = int(rng.integers(len(scene.things)))
    thing = scene.things[index]
    other = Thing(pick(rng, SHAPES), pick(rng, tuple(COLOURS)), pick(rng, tuple(SIZES)), thing.cell)
    from_other = render(replace(scene, things=(*scene.things[:index], other, *scene.things[index + 1 :])))
    corners = [(row, column) for row in (0, CODE_SIDE) for column in (0, CODE_SIDE)]
    for corner in rng.permutation(4)[: rng.integers(1, 4)]:
        top, left = (CELL * line + offset for line, offset in zip(divmod(thing.cell, 3), corners[corner], strict=True))
        where = slice(top, top + CODE_SIDE), slice(left, left + CODE_SIDE)
        picture[where] = from_other[where]
    return picture


def near_miss(
    kind: str, scene: Scene, rng: np.random.Generator, *, rows: int = GRID, held_out: bool = False
) -> tuple[str, Request] | None:
    """A prompt that the scene does not follow, for one change of this kind (of MISSES), and what it asks for; or None.

    With `rows`, one that a picture with the scene's first rows cannot follow any more. Only with `held_out` may it name
    combinations that training never shows.
    """
    for _ in range(8):
        other = MISSES[kind](scene, rng)
        if held_out or not held_out_combinations(other):
            prompt, request = drawing_prompt(other, rng, simple=rng.random() < 0.4)
            if not can_become(scene, request, rows):
                return prompt, request
    return None


def matching_questions(rng: np.random.Generator) -> tuple[list[Exchange], Scene, np.ndarray]:
    """Some questions about one training picture, uint8 [SIDE, SIDE, 3]: half of the answers are "yes" where they can be.

    The scene is the picture's, or that of which it shows a part or a damaged object.
    """
    scene = sample_scene(rng, sample_group_sizes(rng, simple=rng.random() < SIMPLE_SHARE))
    form, rows = rng.random(), GRID
    picture = render(scene)
    if form > WHOLE_SHARE + PART_SHARE:
        picture = damaged(scene, rng)
        prompts = [drawing_prompt(scene, rng, simple=True) for _ in range(2)]
        answers = [(prompt, follows(picture, request)) for prompt, request in prompts]
        return [_exchange(prompt, right) for prompt, right in answers], scene, picture
    if form > WHOLE_SHARE:
        rows = int(rng.integers(1, GRID))
        picture = upper_part(picture, rows)
    return [_ask(scene, rng, rows) for _ in range(QUESTIONS_A_PICTURE)], scene, picture


def _ask(scene: Scene, rng: np.random.Generator, rows: int) -> Exchange:
    if rng.random() < 0.5:
        for _ in range(4):
            if miss := near_miss(pick(rng, tuple(MISSES)), scene, rng, rows=rows):
                return _exchange(miss[0], False)
    if rng.random() < 0.1:
        prompt, request = drawing_prompt(_another(scene, rng), rng)
        return _exchange(prompt, can_become(scene, request, rows))
    return _exchange(drawing_prompt(scene, rng, simple=rng.random() < 0.4)[0], True)


def matching_questions_in_words(scene: Scene, rng: np.random.Generator) -> list[Exchange]:
    """The same for a scene that is described in words."""
    return [_ask(scene, rng, GRID) for _ in range(QUESTIONS_A_PICTURE)]


def _exchange(prompt: str, right: bool) -> Exchange:
    return Exchange(question_about(prompt), "yes" if right else "no")
