"""CUDA graphs: a decode step's kernels recorded once and replayed, because launching small kernels takes longer than running them.

1. A graph replays the same kernels on the same memory. So all that changes from step to step is in tensors allocated
   before the first one: nothing in a graph's own memory outlives a replay.
2. Shapes depend only on `end`, the slots that attention reads. It is rounded up to a multiple of 64, and each value has
   its own graph.
3. Graphs live no longer than the call: after it, a host may move the weights or change them.
"""

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
    """Runs a step. With a `stream`, the first step of each `end` runs eagerly (the warm-up), the second is recorded, and
    it and all later ones are replays. `end` is a multiple of `bucket`.
    """

    possible = True  # False once the device or its driver has refused to record

    def __init__(self, step: Step, stream: torch.cuda.Stream | None, bucket: int | None = None):
        self.step, self.stream, self.bucket = step, stream, bucket or BUCKET
        self.recording = stream is not None
        self.pool = torch.cuda.graph_pool_handle() if stream else None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.last_end = 0  # it ran last, and so needs no warm-up

    def __call__(self, length: int) -> None:
        """One step, after which the cache holds `length` tokens."""
        end = min(-(-length // self.bucket) * self.bucket, self.step.capacity)
        if end == self.last_end and end not in self.graphs and self.recording and GraphedStep.possible:
            self._record(end)
        if graph := self.graphs.get(end):
            graph.replay()
        else:
            self.step(end)
        self.last_end = end

    def _record(self, end: int) -> None:
        """Record a graph for this `end`. A failure costs speed and nothing else: the step runs eagerly.

        1. Without memory for it, this call continues without graphs, and gives back what it has. The next call tries
           again. If memory runs out there too, the step raises PyTorch's own exception, which a host knows.
        2. Any other failure means that this device does not record at all.
        """
        if not self.graphs:
            torch.cuda.empty_cache()  # a graph's pool cannot use what the allocator keeps for others
        try:
            self.graphs[end] = _capture(lambda: self.step(end), self.pool)
        except RuntimeError as error:
            if out_of_memory(error):
                logging.getLogger(__name__).info("Janus has no memory for CUDA graphs in this run: %s", error)
                self.recording = False
                if self.stream:
                    self.stream.synchronize()  # a graph must not be freed while it runs
                self.graphs.clear()
                torch.cuda.empty_cache()
            else:
                GraphedStep.possible = False
                logging.getLogger(__name__).warning(
                    "CUDA graphs are not available: Janus runs more slowly without them", exc_info=True
                )


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: PyTorch's exception, Python's, a library's CUDA error, or that of PyTorch's CPU allocator."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in said for words in ("out of memory", "DefaultCPUAllocator")
    )


@lru_cache
def _own_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def side_stream(device: torch.device, enabled: bool) -> Iterator[torch.cuda.Stream | None]:
    """If `enabled`, work on a CUDA stream of our own: the default stream cannot be recorded.

    1. It is the same stream in every call, so that libraries' workspaces for a stream are allocated before any capture.
    2. It is waited for at the end, because a graph must not be freed while it runs.
    """
    if not enabled:
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
            graph.capture_end()
        except BaseException:
            with suppress(RuntimeError):  # it would hide the cause
                graph.capture_end()
            # A capture that ends in an error leaves the allocator of some versions in the pool: every later free, of the
            # whole process, would wait for an end that never comes.
            with suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            raise
    return graph
