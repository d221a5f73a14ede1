"""The mini's world: one to four flat shapes on a plain or textured background, drawn from a seed and never stored.

A picture has 96x96 pixels: three by three cells of 32x32. A cell is two by two image tokens and holds at most one
shape, in its middle. The same shape therefore gives the same four tokens in every cell, and what a model has to learn
is composition.

A 16 px token shows colour and outline together, so a colour and shape that training never pairs would need codes that
training never shows. All such pairs therefore occur. Held out from training are combinations of an object with a
place, with another object, and with a number (`is_held_out`).
"""

import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

SIDE, CELL = 96, 32
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {
    "red": (222, 38, 38),
    "green": (38, 168, 60),
    "blue": (40, 80, 224),
    "yellow": (240, 214, 36),
    "purple": (152, 48, 192),
    "orange": (246, 134, 28),
}
SIZES = {"small": 18, "large": 28}
BACKGROUNDS = ("white", "black", "striped", "dotted")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
GROUP_SIZES = ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1), (2,), (3,), (4,), (2, 1), (3, 1), (2, 2))  # equal objects
GROUP_SHARES = (0.25, 0.36, 0.09, 0.05, 0.06, 0.07, 0.07, 0.025, 0.0125, 0.0125)  # of the scenes
HELD_OUT_ONE_IN = 8
SUPERSAMPLING = 8


@dataclass(frozen=True)
class Thing:
    """One object. `cell` is an index into PLACES."""

    shape: str
    colour: str
    size: str
    cell: int

    @property
    def look(self) -> tuple[str, str]:
        """Shape and colour."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `background` is one of BACKGROUNDS."""

    background: str
    things: tuple[Thing, ...]  # in reading order of their cells


def cell_centre(cell: int) -> tuple[float, float]:
    """The centre (x, y) of a cell in pixels."""
    return (cell % 3 + 0.5) * CELL, (cell // 3 + 0.5) * CELL


@cache
def is_held_out(*parts: str) -> bool:
    """Whether a combination never occurs in training: one in HELD_OUT_ONE_IN of each kind, chosen by a fixed hash."""
    return zlib.crc32("|".join(sorted(parts)).encode()) % HELD_OUT_ONE_IN == 0


def held_out_combinations(scene: Scene) -> list[tuple[str, ...]]:
    """The held-out combinations in a scene; empty for every training scene."""
    found = []
    colour_names = [f"{t.colour} {t.shape}" for t in scene.things]
    size_names = [f"{t.size} {t.shape}" for t in scene.things]
    for thing, *names in zip(scene.things, colour_names, size_names, strict=True):
        found += [(name, PLACES[thing.cell]) for name in names]
    for names in (colour_names, size_names):
        found += [(a, b) for a, b in combinations(names, 2) if a != b]
    counts = Counter(colour_names)
    found += [(name, f"{counts[name]} times") for name in sorted(counts) if counts[name] > 1]
    return [parts for parts in found if is_held_out(*parts)]


def sample_group_sizes(rng: np.random.Generator, *, simple: bool = False) -> tuple[int, ...]:
    """How many equal objects each group of a scene has, by GROUP_SHARES; one or two objects if `simple`."""
    if simple:
        return (1,) if rng.random() < 0.5 else (1, 1)
    return GROUP_SIZES[int(rng.choice(len(GROUP_SIZES), p=GROUP_SHARES))]


def sample_scene(rng: np.random.Generator, group_sizes: tuple[int, ...], *, held_out: bool = False) -> Scene:
    """A scene with one group of equal objects per entry of `group_sizes` (for example (1, 1, 1) or (4,)).

    A training scene has no held-out combination; with `held_out` it has at least one.
    """
    while True:
        names = rng.permutation(len(SHAPES) * len(COLOURS))[: len(group_sizes)]
        cells = iter(rng.permutation(len(PLACES)))
        things = []
        for name, count in zip(names, group_sizes, strict=True):
            shape, colour = SHAPES[name // len(COLOURS)], tuple(COLOURS)[name % len(COLOURS)]
            size = "small" if rng.random() < 0.5 else "large"
            things += [Thing(shape, colour, size, int(next(cells))) for _ in range(count)]
        scene = Scene(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], in_reading_order(things))
        if bool(held_out_combinations(scene)) == held_out:
            return scene


def sample_crowded_scene(rng: np.random.Generator) -> Scene:
    """A scene with an object in most of its nine cells and no held-out combination, for the VQ tokenizer and SigLIP."""
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    things: tuple[Thing, ...] = ()
    for cell in rng.permutation(len(PLACES)):
        for _ in range(4):
            shape, colour, size = (
                options[rng.integers(len(options))] for options in (SHAPES, tuple(COLOURS), tuple(SIZES))
            )
            more = (*things, Thing(shape, colour, size, int(cell)))
            if not held_out_combinations(Scene(background, more)):
                things = more
                break
    return Scene(background, in_reading_order(things))


def in_reading_order(things: Iterable[Thing]) -> tuple[Thing, ...]:
    """Objects as a Scene holds them."""
    return tuple(sorted(things, key=lambda thing: thing.cell))


def sample_mixed_scene(rng: np.random.Generator, *, crowded: float) -> Scene:
    """A crowded scene in a share `crowded` of the calls, else one of GROUP_SIZES."""
    return sample_crowded_scene(rng) if rng.random() < crowded else sample_scene(rng, sample_group_sizes(rng))


@cache
def coverage(shape: str, side: int) -> np.ndarray:
    """The share of each pixel that a shape of `side` px covers, float32 [side, side] in 0..1."""
    fine = (np.arange(side * SUPERSAMPLING) + 0.5) / (side * SUPERSAMPLING) * 2 - 1
    x, y = fine[None, :], fine[:, None]
    radius = np.sqrt(x**2 + y**2)
    inside = {
        "circle": radius <= 1,
        "square": np.maximum(abs(x), abs(y)) <= 0.9,
        "triangle": abs(x) <= (y + 1) / 2,
        "cross": np.minimum(abs(x), abs(y)) <= 0.32,
        "ring": (radius <= 1) & (radius >= 0.52),
    }[shape]
    inside = np.broadcast_to(inside, (fine.size, fine.size)).astype(np.float32)
    return inside.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING).mean((1, 3))


@cache
def ground(background: str) -> np.ndarray:
    """The empty background, [SIDE, SIDE, 3] float32 in 0..255; textures repeat every 8 px."""
    y, x = np.mgrid[:SIDE, :SIDE] % 8 + 0.5
    grey = {
        "white": np.full((SIDE, SIDE), 244.0),
        "black": np.full((SIDE, SIDE), 18.0),
        "striped": np.where(y < 4, 228.0, 160.0),
        "dotted": np.where((x - 4) ** 2 + (y - 4) ** 2 < 6, 140.0, 62.0),
    }[background]
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


def render(scene: Scene) -> np.ndarray:
    """The picture of a scene, uint8 [SIDE, SIDE, 3], edges anti-aliased."""
    picture = ground(scene.background).copy()
    for thing in scene.things:
        side = SIZES[thing.size]
        top, left = (CELL * line + (CELL - side) // 2 for line in divmod(thing.cell, 3))
        patch = picture[top : top + side, left : left + side]
        patch += coverage(thing.shape, side)[..., None] * (np.array(COLOURS[thing.colour], np.float32) - patch)
    return (picture + 0.5).astype(np.uint8)


def world_pictures(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pictures for the VQ tokenizer, uint8 [count, SIDE, SIDE, 3]; more than half of the scenes are crowded."""
    return np.stack([render(sample_mixed_scene(rng, crowded=0.6)) for _ in range(count)])
