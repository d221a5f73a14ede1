"""The VQ codes of any scene, without a pass through the tokenizer for each."""

from collections.abc import Callable
from itertools import product

import numpy as np
from torch import Tensor

from .world import BACKGROUNDS, CELL, COLOURS, SHAPES, SIDE, SIZES, Scene, Thing, render

Encode = Callable[[np.ndarray], Tensor]  # uint8 [N, H, W, 3] -> codes [N, h * w]
CODE_SIDE = 16
GRID, CELL_GRID = SIDE // CODE_SIDE, CELL // CODE_SIDE  # codes in a row of a picture, and of a cell
BATCH, CENTRE = 16, 4  # scenes encoded at once; the cell in the middle


class WorldCodes:
    """The codes of a scene, put together from those of each object on each background.

    A tokenizer trained on this world gives an object the same codes in every cell (`agreement` measures it), and
    encoding each picture would cost more than the training step itself.
    """

    def __init__(self, encode: Encode):
        self.encode = encode
        variants: list[tuple[str, ...]] = list(product(BACKGROUNDS, SHAPES, COLOURS, SIZES))
        grids = self._encode([Scene(b, (Thing(s, c, z, CENTRE),)) for b, s, c, z in variants])
        self.cells = {variant: grid[self._cell(CENTRE)] for variant, grid in zip(variants, grids, strict=True)}
        self.empty: dict[str, np.ndarray] = dict(
            zip(BACKGROUNDS, self._encode([Scene(b, ()) for b in BACKGROUNDS]), strict=True)
        )

    @staticmethod
    def _cell(cell: int) -> tuple[slice, slice]:
        row, column = divmod(cell, SIDE // CELL)
        return slice(CELL_GRID * row, CELL_GRID * (row + 1)), slice(CELL_GRID * column, CELL_GRID * (column + 1))

    def _encode(self, scenes: list[Scene]) -> np.ndarray:
        pictures = (np.stack([render(s) for s in scenes[i : i + BATCH]]) for i in range(0, len(scenes), BATCH))
        return np.concatenate([self.encode(batch).cpu().numpy() for batch in pictures]).reshape(-1, GRID, GRID)

    def of(self, scene: Scene) -> np.ndarray:
        """The scene's codes, [36]."""
        grid = self.empty[scene.background].copy()
        for thing in scene.things:
            grid[self._cell(thing.cell)] = self.cells[scene.background, thing.shape, thing.colour, thing.size]
        return grid.reshape(-1)

    def agreement(self, scenes: list[Scene]) -> float:
        """The share of codes that equal those of the picture encoded as a whole."""
        return float((self._encode(scenes).reshape(len(scenes), -1) == np.stack([self.of(s) for s in scenes])).mean())
