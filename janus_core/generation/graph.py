"""Drawing on a CUDA device: the whole decode step as one CUDA graph, since starting its kernels takes longer than they do.

A graph runs the same kernels on the same memory each time, so a step here has fixed shapes, and what changes from step
to step lies in tensors made before the first: in a graph's own memory nothing stays, whatever allocator serves it.
Attention looks at a whole bucket of slots under a mask; each bucket has a graph of its own.
Graphs live no longer than the call: afterwards a host may move the weights, or change them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..model.janus import JanusModel
from .image import Drawing, Progress, picture_logits, prefill
from .sampling import check_finite, draw_tokens, seed_keys

BUCKET = 64


class FixedStep:
    """The state of a drawing, and the step that moves it on by one code of every picture."""

    def __init__(self, model: JanusModel, drawing: Drawing, device: torch.device):
        self.model, self.drawing = model, drawing
        self.start = len(drawing.prompt)
        self.capacity = self.start + drawing.steps - 1
        hidden, self.cache = prefill(model, drawing.prefixes, drawing.count, drawing.steps - 1, device)
        self.slots = torch.arange(self.capacity, device=device)
        self.keys = seed_keys(drawing.seed, drawing.count, device)
        self.ids = torch.zeros(drawing.count, drawing.steps, dtype=torch.long, device=device)
        # Which code was drawn last, of each picture.
        self.last = torch.zeros(drawing.count, 1, dtype=torch.long, device=device)
        self.places = self.cache.slots = torch.empty(len(hidden), 1, dtype=torch.long, device=device)
        self.logits = picture_logits(model, hidden, drawing.cfg_weight)[:, None]
        check_finite(self.logits)
        self._draw()

    def bucket(self, codes: int) -> int:
        """How many slots to look at once `codes` codes are drawn."""
        return min(-(-(self.start + codes) // BUCKET) * BUCKET, self.capacity)

    def __call__(self, bucket: int) -> None:
        """Draw one more code, looking at the cache's first `bucket` slots. Nothing waits for the device."""
        copies = len(self.drawing.prefixes)
        self.places.copy_((self.last + self.start).repeat(copies, 1))
        mask = self.slots[:bucket] <= self.places[:, None, :, None]
        embeds = self.model.embed_codes(self.ids.gather(1, self.last)).repeat(copies, 1, 1)
        hidden = self.model.language_model.model(embeds, self.places, mask, self.cache)
        self.logits.copy_(picture_logits(self.model, hidden, self.drawing.cfg_weight))
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
    device = torch.device(device)
    row = model.config.grid[1]
    graphs: dict[int, torch.cuda.CUDAGraph | None] = {}
    seen = 0  # the bucket that has been run, and so warmed up
    with _aside(device) as stream:
        pool = torch.cuda.graph_pool_handle() if stream else None
        step = FixedStep(model, drawing, device)
        for drawn in range(1, drawing.steps + 1):
            if progress is not None:
                if stream and drawn % row == 0:
                    stream.synchronize()
                progress(drawn, drawing.steps, step.ids[:, :drawn])
            if drawn == drawing.steps:
                break
            bucket = step.bucket(drawn)
            if bucket == seen and stream and bucket not in graphs:
                graphs[bucket] = _capture(lambda end=bucket: step(end), pool)
            if recorded := graphs.get(bucket):
                recorded.replay()
            else:
                step(bucket)
            seen = bucket
        check_finite(step.logits)
    return step.ids


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def _aside(device: torch.device) -> Iterator[torch.cuda.Stream | None]:
    """On a CUDA device, work on a stream of our own, since the usual one cannot be recorded; None elsewhere.

    It is always the same one, so that what libraries keep for a stream is made outside of any graph. At the end it is
    waited for: a graph must not go while it runs.
    """
    if device.type != "cuda":
        yield None
        return
    stream = _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        stream.synchronize()


def _capture(step: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph | None:
    """Record a call's kernels on the current stream; they do not run. Other threads may go on using the device.

    None where the device or its driver will not be recorded, which the log tells: all steps then run as they are.
    """
    torch.cuda.synchronize()  # what a host moves about is then done with
    graph = torch.cuda.CUDAGraph()
    try:
        graph.capture_begin(pool, capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
    except RuntimeError as error:
        logging.getLogger(__name__).warning(f"Janus draws without CUDA graphs, and so more slowly: {error}")
        return None
    return graph


def graphable(model: JanusModel, plain: Callable[[nn.Module], bool]) -> bool:
    """Whether a step's weights all lie on one CUDA device, and are used as they lie."""
    layers = [layer for part in (*model.decoding_parts, model.gen_embed) for layer in part.modules()]
    layers = [layer for layer in layers if any(True for _ in layer.parameters(recurse=False))]
    devices = {weight.device for layer in layers for weight in layer.parameters(recurse=False)}
    return len(devices) == 1 and devices.pop().type == "cuda" and all(plain(layer) for layer in layers)
