"""The picture while it is drawn: a frame for each row of tokens, as ComfyUI's --preview-method wants it."""

from __future__ import annotations

import math
import time

import torch
from PIL import Image

from ..janus_core import ImageTokens, Janus
from ..janus_core.preview import code_colours
from ..janus_core.processing import to_pil
from . import host

SIDE = 288  # pixels of a frame, about
GAP = 4  # pixels between pictures
NEUTRAL = (74, 74, 78)  # what is not drawn yet
BEHIND = (53, 53, 53)  # a node's own grey
SHARE = 0.03  # of the time since drawing began, at most, goes into frames

_colours: dict[str, torch.Tensor] = {}  # by codebook; 48 KB for Janus-Pro's


def preview_of(janus: host.HostedJanus) -> Preview | None:
    """What shows this model's drawings while they grow, or None where the user wants no previews."""
    method = host.preview_method()
    if method == "none":
        return None
    core = janus.to_decode()
    if core.codebook not in _colours:
        _colours[core.codebook] = code_colours(core)
    return Preview(core, _colours[core.codebook], whole=method == "taesd")


class Preview:
    """Called after each step with all codes so far; gives a frame when a row became full and there is time for one.

    `whole` decodes the rows as often as there is time for that, and shows each code's plain colour in between.
    """

    def __init__(self, core: Janus, colours: torch.Tensor, whole: bool):
        self.core, self.colours, self.whole = core, colours, whole
        self.grid = core.model.config.grid
        self.rows = 0
        self.start = time.perf_counter()
        self.spent = 0.0
        self.costs = {self._decoded: 0.0, self._plain: 0.0}  # seconds a row, as measured

    def __call__(self, step: int, total: int, ids: torch.Tensor) -> Image.Image | None:
        height, width = self.grid
        rows = step // width
        if rows == self.rows:
            return None
        self.rows = rows
        if rows == height:  # the pictures themselves come next
            return None
        allowed = SHARE * (time.perf_counter() - self.start)
        for draw in (self._decoded, self._plain) if self.whole else (self._plain,):
            if self.spent + self.costs[draw] * rows <= allowed:
                start = time.perf_counter()
                frame = self.sheet(draw(ids[:, : rows * width], (rows, width)))
                took = time.perf_counter() - start
                self.costs[draw] = took / rows
                self.spent += took
                return frame
        return None

    def _decoded(self, ids: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return self.core.decode(ImageTokens(ids, grid, self.core.codebook))

    def _plain(self, ids: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return self.colours[ids.cpu()].unflatten(1, grid)

    def sheet(self, pictures: torch.Tensor) -> Image.Image:
        """What is drawn so far of each picture, [N, h, w, 3] in 0..1, on neutral tiles side by side."""
        count = len(pictures)
        columns = math.ceil(math.sqrt(count))
        height, width = (side * max(1, SIDE // (columns * max(self.grid))) for side in self.grid)
        rows = math.ceil(count / columns)
        sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), BEHIND)
        for i, picture in enumerate(pictures):
            corner = (i % columns * (width + GAP), i // columns * (height + GAP))
            sheet.paste(NEUTRAL, (*corner, corner[0] + width, corner[1] + height))
            part = to_pil(picture).resize((width, height * self.rows // self.grid[0]), Image.Resampling.BICUBIC)
            sheet.paste(part, corner)
        return sheet
