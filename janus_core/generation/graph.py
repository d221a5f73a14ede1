"""Drawing on a CUDA device: the whole decode step as one CUDA graph, since starting its kernels takes longer than they do.

A graph runs the same kernels on the same memory each time, so a step here has fixed shapes, and what changes from step
to step lies in tensors. Attention looks at a whole bucket of slots under a mask; each bucket has a graph of its own.
Graphs live no longer than the call: afterwards a host may move the weights, or change them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..model.janus import JanusModel
from .image import Drawing, Progress, picture_logits, prefill
from .sampling import check_finite, draw_tokens, seed_keys

BUCKET = 64


class FixedStep:
    """The state of a drawing, and the step that moves it on by one code of every picture."""

    def __init__(self, model: JanusModel, drawing: Drawing, device: torch.device | str):
        self.model, self.drawing = model, drawing
        self.start = len(drawing.prompt)
        self.capacity = self.start + drawing.steps - 1
        hidden, self.cache = prefill(model, drawing.prefixes, drawing.count, drawing.steps - 1, device)
        self.cache.blank()
        self.slots = torch.arange(self.capacity, device=device)
        self.keys = seed_keys(drawing.seed, drawing.count, device)
        self.ids = torch.zeros(drawing.count, drawing.steps, dtype=torch.long, device=device)
        self.last = torch.zeros(
            drawing.count, 1, dtype=torch.long, device=device
        )  # the last code drawn, of each picture
        self.logits = picture_logits(model, hidden, drawing.cfg_weight)[:, None]
        check_finite(self.logits)
        self._draw()

    def bucket(self, codes: int) -> int:
        """How many slots to look at once `codes` codes are drawn."""
        return min(-(-(self.start + codes) // BUCKET) * BUCKET, self.capacity)

    def __call__(self, bucket: int) -> None:
        """Draw one more code, looking at the cache's first `bucket` slots. Nothing waits for the device."""
        copies = len(self.drawing.prefixes)
        places = self.cache.slots = (self.last + self.start).repeat(copies, 1)
        mask = self.slots[:bucket] <= places[:, None, :, None]
        embeds = self.model.embed_codes(self.ids.gather(1, self.last)).repeat(copies, 1, 1)
        hidden = self.model.language_model.model(embeds, places, mask, self.cache)
        self.logits = picture_logits(self.model, hidden, self.drawing.cfg_weight)
        self.last.add_(1)
        self._draw()

    def _draw(self) -> None:
        self.ids.scatter_(1, self.last, draw_tokens(self.logits, self.drawing.sampling, self.keys, self.last))


@torch.no_grad()
def draw_codes_graphed(
    model: JanusModel, drawing: Drawing, device: torch.device | str, progress: Progress | None = None
) -> Tensor:
    """`draw_codes` in fixed steps, each bucket's first as it is and the others from its graph: ids long [count, steps].

    Without CUDA all steps run as they are. The device is waited for once a row of the picture.
    """
    on_cuda = torch.device(device).type == "cuda"
    row = model.config.grid[1]
    step = FixedStep(model, drawing, device)
    pool = torch.cuda.graph_pool_handle() if on_cuda else None
    graphs: dict[int, torch.cuda.CUDAGraph] = {}
    seen = 0  # the bucket that has been run, and so warmed up
    try:
        for drawn in range(1, drawing.steps + 1):
            if progress is not None:
                if on_cuda and drawn % row == 0:
                    torch.cuda.current_stream(device).synchronize()
                progress(drawn, drawing.steps, step.ids[:, :drawn])
            if drawn == drawing.steps:
                break
            bucket = step.bucket(drawn)
            if bucket == seen and on_cuda:
                if bucket not in graphs:
                    graphs[bucket] = capture(lambda end=bucket: step(end), device, pool)
                graphs[bucket].replay()
            else:
                step(bucket)
            seen = bucket
        check_finite(step.logits)
        return step.ids
    finally:
        if on_cuda:  # a graph must not go while it runs
            torch.cuda.current_stream(device).synchronize()


def capture(step: Callable[[], None], device: torch.device | str, pool: Any) -> torch.cuda.CUDAGraph:
    """Record a call's kernels, which do not run meanwhile. Other threads may go on using the device."""
    graph = torch.cuda.CUDAGraph()
    stream, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(stream)
    with torch.cuda.stream(side):
        graph.capture_begin(pool, capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
    stream.wait_stream(side)
    return graph


def graphable(model: JanusModel, plain: Callable[[nn.Module], bool]) -> bool:
    """Whether a step's weights all lie on one CUDA device, and are used as they lie."""
    layers = [layer for part in (*model.decoding_parts, model.gen_embed) for layer in part.modules()]
    layers = [layer for layer in layers if any(True for _ in layer.parameters(recurse=False))]
    devices = {weight.device for layer in layers for weight in layer.parameters(recurse=False)}
    return len(devices) == 1 and devices.pop().type == "cuda" and all(plain(layer) for layer in layers)
