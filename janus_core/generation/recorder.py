"""CUDA graphs: a decode step's kernels recorded once and replayed, because launching them takes longer than they run.

1. A graph replays the same kernels on the same memory. So a step has fixed shapes, and all that changes from step to
   step is in tensors allocated before the first one: nothing in a graph's own memory outlives a replay.
2. Attention reads a whole bucket of slots under a mask. Each bucket has its own graph.
3. Graphs live no longer than the call: after it, a host may move the weights or change them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Protocol

import torch

from ..collector import collector_paused

BUCKET = 64


class Step(Protocol):
    """A step on fixed memory. It is called with `end`: no slot of the cache from there on is looked at."""

    capacity: int

    def __call__(self, end: int) -> None: ...


class GraphedStep:
    """Runs a step. With a `stream`, each bucket's first step runs as it is, and the second is recorded and replayed.

    `bucket` is how many slots more attention reads from one graph to the next.
    """

    possible = True  # False once the device or its driver has refused to record

    def __init__(self, step: Step, stream: torch.cuda.Stream | None, bucket: int | None = None):
        self.step, self.bucket = step, bucket or BUCKET
        self.recording = stream is not None
        self.pool = torch.cuda.graph_pool_handle() if stream else None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.warm = 0  # the bucket that ran last, and so needs no warm-up

    def __call__(self, slots: int) -> None:
        """One step whose last token is in slot `slots - 1`."""
        end = min(-(-slots // self.bucket) * self.bucket, self.step.capacity)
        if end == self.warm and end not in self.graphs and self.recording and GraphedStep.possible:
            try:
                self.graphs[end] = _capture(lambda: self.step(end), self.pool)
            except RuntimeError:
                GraphedStep.possible = False
                logging.getLogger(__name__).warning(
                    "Janus works without CUDA graphs, and so more slowly", exc_info=True
                )
        if graph := self.graphs.get(end):
            graph.replay()
        else:
            self.step(end)
        self.warm = end


@lru_cache
def _own_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def side_stream(device: torch.device, wanted: bool) -> Iterator[torch.cuda.Stream | None]:
    """Where graphs are `wanted`, work on a CUDA stream of our own: the default stream cannot be recorded.

    1. It is the same stream in every call, so libraries allocate what they keep for a stream outside of any graph.
    2. It is waited for at the end, because a graph must not be freed while it runs.
    """
    if not wanted:
        yield None
        return
    stream = _own_stream(torch.cuda.current_device() if device.index is None else device.index)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        stream.synchronize()


def _capture(step: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """Record the kernels that `step` launches on the current stream, without running them.

    Raises RuntimeError where the device or its driver refuses, and whatever `step` raises.
    """
    torch.cuda.synchronize()  # a host may be moving weights
    graph = torch.cuda.CUDAGraph()
    with collector_paused():  # memory must not be freed while recording
        graph.capture_begin(pool, capture_error_mode="thread_local")  # other threads may use the device meanwhile
        try:
            step()
        except BaseException:
            with suppress(RuntimeError):  # it would hide the cause
                graph.capture_end()
            raise
        graph.capture_end()
    return graph
