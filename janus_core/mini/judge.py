"""The pixel judge: reads a picture of the mini's world by colour, blobs and outlines, without any model.

Pixels of high saturation are the foreground. They are joined into blobs, and each blob's outline is compared with the
five shapes drawn at the blob's own size. A picture follows its prompt if it shows exactly the requested objects, each
as described and in the relation named. An extra object is as wrong as a missing one.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import ndimage

from .request import Request, fits, relation_holds
from .world import BACKGROUNDS, CELL, COLOURS, SHAPES, SIZES, coverage, ground

MIN_SATURATION = 70  # of a foreground pixel: its largest channel less its smallest, of 255
MIN_PIXELS = 30  # of an object; of the visible background
MIN_OVERLAP = 0.72  # intersection over union with a shape's outline
MIN_COLOUR_SHARE = 0.75  # of a blob's pixels that are nearest to its colour
MAX_BACKGROUND_ERROR = 30  # mean absolute difference, of 255


@dataclass(frozen=True)
class Detection:
    """An object found in a picture; shape or colour is None if it matches none of the world's. `centre` is (x, y) in px."""

    shape: str | None
    colour: str | None
    size: str
    cell: int
    centre: tuple[float, float]


def read(picture: np.ndarray) -> tuple[str | None, list[Detection]]:
    """The background (None if it matches none) and the objects of a picture, uint8 [SIDE, SIDE, 3]."""
    pixels = picture.astype(np.float32)
    foreground = pixels.max(2) - pixels.min(2) > MIN_SATURATION
    nearest = ((pixels[..., None, :] - np.array(list(COLOURS.values()), np.float32)) ** 2).sum(-1).argmin(-1)
    blobs = np.zeros(foreground.shape, np.int32)
    ndimage.label(foreground, output=blobs)
    seen = []
    for index, where in enumerate(ndimage.find_objects(blobs), 1):
        mask = blobs[where] == index
        if mask.sum() >= MIN_PIXELS:
            seen.append(_read_blob(mask, nearest[where][mask], where))
    return _read_background(pixels, ~np.asarray(ndimage.binary_dilation(foreground, iterations=2), bool)), seen


def _read_blob(mask: np.ndarray, colours: np.ndarray, where: tuple[slice, slice]) -> Detection:
    votes = np.bincount(colours, minlength=len(COLOURS))
    colour = tuple(COLOURS)[votes.argmax()] if votes.max() >= MIN_COLOUR_SHARE * votes.sum() else None
    height, width = mask.shape
    side = max(height, width)
    square = np.zeros((side, side), bool)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = mask
    overlaps = [
        (square & outline).sum() / (square | outline).sum() for outline in (_outline(shape, side) for shape in SHAPES)
    ]
    shape = SHAPES[int(np.argmax(overlaps))] if max(overlaps) >= MIN_OVERLAP else None
    centre = (where[1].start + width / 2, where[0].start + height / 2)
    return Detection(
        shape=shape,
        colour=colour,
        size="small" if side < sum(SIZES.values()) / 2 else "large",
        cell=int(centre[1] // CELL) * 3 + int(centre[0] // CELL),
        centre=centre,
    )


def _outline(shape: str, side: int) -> np.ndarray:
    """The shape's mask, stretched to fill a box of `side` px."""
    mask = coverage(shape, side) > 0.4
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return inner[np.ix_(*(((np.arange(side) + 0.5) * length / side).astype(int) for length in inner.shape))]


def _read_background(pixels: np.ndarray, visible: np.ndarray) -> str | None:
    if visible.sum() < MIN_PIXELS:
        return None
    errors = [abs(pixels[visible] - ground(name)[visible]).mean() for name in BACKGROUNDS]
    return BACKGROUNDS[int(np.argmin(errors))] if min(errors) < MAX_BACKGROUND_ERROR else None


def follows(picture: np.ndarray, request: Request) -> bool:
    """Whether a picture, uint8 [SIDE, SIDE, 3], shows what is asked for and nothing else."""
    background, seen = read(picture)
    if len(seen) != len(request.things) or request.background not in (None, background):
        return False
    return any(
        all(fits(wanted, thing) for wanted, thing in zip(request.things, order, strict=True))
        and (request.relation is None or relation_holds(request.relation, order[0].centre, order[1].centre))
        for order in permutations(seen)
    )
