"""The pixel judge: reads a picture of the mini's world by colour, blobs and outlines, knowing nothing of any model.

Coloured pixels are told from the grey ground by saturation, joined into blobs, and each blob's outline is compared
with the five shapes drawn at the blob's own size. A picture follows its prompt when it shows exactly the objects
asked for, each as described, in the relation named: objects too many are as wrong as objects missing.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import ndimage

from .world import BACKGROUNDS, CELL, COLOURS, SHAPES, SIZES, coverage, ground

SATURATED = 70
SPECK = 30  # px: a smaller blob is dirt, no object
LIKENESS = 0.72
ONE_COLOUR = 0.75


@dataclass(frozen=True)
class Wanted:
    """An object as a prompt describes it; None where the prompt leaves it open."""

    shape: str | None
    colour: str | None = None
    size: str | None = None
    cell: int | None = None


@dataclass(frozen=True)
class Request:
    """All that a prompt asks for: the objects, how the first lies to the second, the background."""

    things: tuple[Wanted, ...]
    relation: str | None = None
    background: str | None = None


@dataclass(frozen=True)
class Seen:
    """A blob: its words (None where it looks like nothing known), its cell, and its centre (x, y) in px."""

    shape: str | None
    colour: str | None
    size: str
    cell: int
    centre: tuple[float, float]


def related(relation: str, a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether centre `a` lies `relation` ("left of", "right of", "above", "below") centre `b`, by half a cell or more."""
    sideways, down = a[0] - b[0], a[1] - b[1]
    step = {"left of": -sideways, "right of": sideways, "above": -down, "below": down}[relation]
    return step >= CELL / 2


def read(picture: np.ndarray) -> tuple[str | None, list[Seen]]:
    """Background and objects of a picture, uint8 [H, W, 3] of the world's size."""
    pixels = picture.astype(np.float32)
    foreground = pixels.max(2) - pixels.min(2) > SATURATED
    palette = np.array(list(COLOURS.values()), np.float32)
    nearest = ((pixels[..., None, :] - palette) ** 2).sum(-1).argmin(-1)
    blobs = np.zeros(foreground.shape, np.int32)
    ndimage.label(foreground, output=blobs)
    seen = []
    for index, where in enumerate(ndimage.find_objects(blobs), 1):
        mask = blobs[where] == index
        if mask.sum() >= SPECK:
            seen.append(_read_blob(mask, nearest[where][mask], where))
    return _read_ground(pixels, ~np.asarray(ndimage.binary_dilation(foreground, iterations=2), bool)), seen


def _read_blob(mask: np.ndarray, colours: np.ndarray, where: tuple[slice, slice]) -> Seen:
    votes = np.bincount(colours, minlength=len(COLOURS))
    colour = tuple(COLOURS)[votes.argmax()] if votes.max() >= ONE_COLOUR * votes.sum() else None
    height, width = mask.shape
    side = max(height, width)
    square = np.zeros((side, side), bool)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = mask
    likeness = [(square & m).sum() / (square | m).sum() for m in (_outline(shape, side) for shape in SHAPES)]
    shape = SHAPES[int(np.argmax(likeness))] if max(likeness) >= LIKENESS else None
    centre = (where[1].start + width / 2, where[0].start + height / 2)
    size = "small" if side < sum(SIZES.values()) / 2 else "large"
    return Seen(shape, colour, size, int(centre[1] // CELL) * 3 + int(centre[0] // CELL), centre)


def _outline(shape: str, side: int) -> np.ndarray:
    """The shape's mask filling a box of `side` px."""
    mask = coverage(shape, side) > 0.4
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    y = (np.arange(side) + 0.5) * inner.shape[0] / side
    x = (np.arange(side) + 0.5) * inner.shape[1] / side
    return inner[np.ix_(y.astype(int), x.astype(int))]


def _read_ground(pixels: np.ndarray, visible: np.ndarray) -> str | None:
    if visible.sum() < SPECK:
        return None
    errors = [abs(pixels[visible] - ground(name)[visible]).mean() for name in BACKGROUNDS]
    return BACKGROUNDS[int(np.argmin(errors))] if min(errors) < 30 else None


def follows(picture: np.ndarray, request: Request) -> bool:
    """Whether a picture, uint8 [H, W, 3], shows what was asked for and nothing else."""
    background, seen = read(picture)
    if len(seen) != len(request.things) or request.background not in (None, background):
        return False
    return any(
        all(_fits(wanted, thing) for wanted, thing in zip(request.things, order, strict=True))
        and (request.relation is None or related(request.relation, order[0].centre, order[1].centre))
        for order in permutations(seen)
    )


def _fits(wanted: Wanted, seen: Seen) -> bool:
    asked = (wanted.shape, wanted.colour, wanted.size, wanted.cell)
    if seen.shape is None or seen.colour is None:
        return False
    return all(a is None or a == b for a, b in zip(asked, (seen.shape, seen.colour, seen.size, seen.cell), strict=True))
