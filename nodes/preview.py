"""Preview frames while pictures are drawn: one when a row of tokens is complete, by ComfyUI's --preview-method."""

from __future__ import annotations

import math
import time

import torch
from PIL import Image

from ..janus_core import ImageTokens, Janus
from ..janus_core.code_colours import code_colours
from ..janus_core.memory import Need
from ..janus_core.pictures import to_pil
from .host import canvas
from .host.weights import HostedJanus

FRAME_SIDE = 288  # pixels, approximately
GAP = 4  # pixels between pictures
GAP_COLOUR = (53, 53, 53)  # the grey of a node on the canvas
EMPTY_COLOUR = (74, 74, 78)  # of rows that are not drawn yet
MAX_TIME_SHARE = 0.03  # of the time since drawing began, for all frames

_colours: dict[str, torch.Tensor] = {}  # by codebook; 48 KB for Janus-Pro's


def preview_of(janus: HostedJanus) -> Preview | None:
    """A Preview for one drawing, or None if the user wants no previews."""
    method = canvas.preview_method()
    if method == "none":
        return None
    core = janus.ready(janus.core.decoding_need())
    if core.codebook not in _colours:
        _colours[core.codebook] = code_colours(core)
    return Preview(core, _colours[core.codebook], decodes=method == "taesd")


def ready_to_draw(janus: HostedJanus, need: Need) -> Preview | None:
    """Ask ComfyUI to load what a drawing and its previews need; the Preview, or None if the user wants no previews."""
    preview = preview_of(janus)
    janus.ready(need + janus.core.decoding_need() if preview and preview.decodes else need)
    return preview


class Preview:
    """Called after each step with all codes so far; returns a frame when a row is complete and time allows.

    A frame shows each code as its colour. With `decodes`, it is the rows as decoded pictures whenever there is time for
    that.
    """

    def __init__(self, core: Janus, colours: torch.Tensor, *, decodes: bool):
        self.core, self.colours, self.decodes = core, colours, decodes
        self.grid = core.model.config.grid
        self.rows = 0
        self.start = time.perf_counter()
        self.spent = 0.0
        self.costs = {self._decoded: 0.0, self._coloured: 0.0}  # seconds for each row, as measured

    def __call__(self, step: int, total: int, ids: torch.Tensor) -> Image.Image | None:
        height, width = self.grid
        rows = step // width
        last_rows, self.rows = self.rows, rows
        if rows in (0, last_rows, height):  # no new row, or the finished pictures come next
            return None
        allowed = MAX_TIME_SHARE * (time.perf_counter() - self.start)
        for draw in (self._decoded, self._coloured) if self.decodes else (self._coloured,):
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

    def _coloured(self, ids: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        return self.colours[ids.cpu()].unflatten(1, grid)

    def sheet(self, pictures: torch.Tensor) -> Image.Image:
        """A frame of all pictures side by side; `pictures` [N, h, w, 3] in 0..1 have only the rows drawn so far."""
        count = len(pictures)
        columns = math.ceil(math.sqrt(count))
        height, width = (side * max(1, FRAME_SIDE // (columns * max(self.grid))) for side in self.grid)
        rows = math.ceil(count / columns)
        sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), GAP_COLOUR)
        for i, picture in enumerate(pictures):
            corner = (i % columns * (width + GAP), i // columns * (height + GAP))
            sheet.paste(EMPTY_COLOUR, (*corner, corner[0] + width, corner[1] + height))
            size = (width, height * self.rows // self.grid[0])
            sheet.paste(to_pil(picture).resize(size, Image.Resampling.BICUBIC), corner)
        return sheet
