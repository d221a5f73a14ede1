"""The mini's world: one to four flat shapes on a plain or textured ground, drawn anew from a seed and never stored.

A picture is 96x96, three by three cells of 32x32. A cell is two by two image tokens, holds at most one shape, and the
shape sits in its middle, so that the same shape is the same few tokens wherever it stands: what a model has to learn
is composition. A 16 px token shows colour and outline at once, so a colour and shape never shown together would need
codes never shown; held out from all training are therefore combinations of such objects with a place, with a partner
and with a number (`is_held_out`).
"""

import zlib
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
HELD_OUT_ONE_IN = 8
SUPERSAMPLING = 8


@dataclass(frozen=True)
class Thing:
    """One object: what it is and in which of the nine cells (index into PLACES) it stands."""

    shape: str
    colour: str
    size: str
    cell: int


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...]  # in reading order of their cells


@cache
def is_held_out(*parts: str) -> bool:
    """Whether a combination never occurs in training: one in HELD_OUT_ONE_IN of each kind, by a fixed hash."""
    return zlib.crc32("|".join(sorted(parts)).encode()) % HELD_OUT_ONE_IN == 0


def held_out_combinations(scene: Scene) -> list[tuple[str, ...]]:
    """The held-out combinations in a scene; empty for every training scene."""
    found = []
    looks = [f"{t.colour} {t.shape}" for t in scene.things]
    builds = [f"{t.size} {t.shape}" for t in scene.things]
    for thing, look, build in zip(scene.things, looks, builds, strict=True):
        found += [(name, PLACES[thing.cell]) for name in (look, build)]
    for names in (looks, builds):
        found += [(a, b) for a, b in combinations(names, 2) if a != b]
    found += [(look, f"{looks.count(look)} times") for look in sorted(set(looks)) if looks.count(look) > 1]
    return [parts for parts in found if is_held_out(*parts)]


def sample_scene(rng: np.random.Generator, group_sizes: tuple[int, ...], held_out: bool = False) -> Scene:
    """A scene with one group of equal objects per entry of `group_sizes` (for example (1, 1, 1) or (4,)).

    A training scene holds no held-out combination; with `held_out` it holds at least one.
    """
    while True:
        names = rng.permutation(len(SHAPES) * len(COLOURS))[: len(group_sizes)]
        cells = iter(rng.permutation(len(PLACES)))
        things = []
        for name, count in zip(names, group_sizes, strict=True):
            shape, colour = SHAPES[name // len(COLOURS)], tuple(COLOURS)[name % len(COLOURS)]
            size = "small" if rng.random() < 0.5 else "large"
            things += [Thing(shape, colour, size, int(next(cells))) for _ in range(count)]
        scene = Scene(BACKGROUNDS[rng.integers(len(BACKGROUNDS))], tuple(sorted(things, key=lambda t: t.cell)))
        if bool(held_out_combinations(scene)) == held_out:
            return scene


def sample_crowded_scene(rng: np.random.Generator) -> Scene:
    """A scene with an object in most of its nine cells, and no held-out combination: rich food for the VQ tokenizer."""
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    things: tuple[Thing, ...] = ()
    for cell in rng.permutation(len(PLACES)):
        for _ in range(4):
            shape, colour, size = (
                options[rng.integers(len(options))] for options in (SHAPES, tuple(COLOURS), tuple(SIZES))
            )
            fuller = (*things, Thing(shape, colour, size, int(cell)))
            if not held_out_combinations(Scene(background, fuller)):
                things = fuller
                break
    return Scene(background, tuple(sorted(things, key=lambda t: t.cell)))


@cache
def coverage(shape: str, side: int) -> np.ndarray:
    """How much of each pixel a shape of `side` px covers, [side, side] in 0..1."""
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
