"""Drawing and answering on a CUDA device: a whole decode step as one CUDA graph, since starting its kernels takes longer
than they do.

A graph runs the same kernels on the same memory each time, so a step here has fixed shapes, and what changes from step
to step lies in tensors made before the first: in a graph's own memory nothing stays, whatever allocator serves it.
Attention looks at a whole bucket of slots under a mask; each bucket has a graph of its own.
Graphs live no longer than the call: afterwards a host may move the weights, or change them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..collector import collector_paused
from ..model.janus import JanusModel
from .image import Drawing, Progress, picture_logits, prefill
from .sampling import Sampling, check_finite, draw_tokens, seed_keys, tempered
from .text import read_prompts

BUCKET = 64


class FixedStep(Protocol):
    """A step on fixed memory, called with how many slots of its cache to look at: of `capacity`, so many at a time."""

    capacity: int
    bucket: int

    def __call__(self, end: int) -> None: ...


class GraphedStep:
    """Runs a fixed step, each bucket's first time as it is and then from its graph; without a stream always as it is."""

    possible = True  # until a device or its driver will not be recorded

    def __init__(self, step: FixedStep, stream: torch.cuda.Stream | None):
        self.step = step
        self.recording = stream is not None
        self.pool = torch.cuda.graph_pool_handle() if stream else None
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.seen = 0  # the bucket that has been run, and so warmed up

    def __call__(self, slots: int) -> None:
        """One step, of which `slots` slots are to be looked at."""
        end = min(-(-slots // self.step.bucket) * self.step.bucket, self.step.capacity)
        if end == self.seen and end not in self.graphs and self.recording and GraphedStep.possible:
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
        self.seen = end


class FixedCode:
    """The state of a drawing, and the step that moves it on by one code of every picture."""

    def __init__(self, model: JanusModel, drawing: Drawing, device: torch.device | str, kernels: Any):
        self.model, self.drawing, self.kernels = model, drawing, kernels
        self.start = len(drawing.prompt)
        self.capacity = self.start + drawing.steps - 1
        self.bucket = self.capacity if kernels else BUCKET  # the kernels pass over slots that are not filled yet
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

    def __call__(self, end: int) -> None:
        """Draw one more code of each, looking at the cache's first `end` slots. Nothing waits for the device."""
        copies = len(self.drawing.prefixes)
        self.places.copy_((self.last + self.start).repeat(copies, 1))
        embeds = self.model.embed_codes(self.ids.gather(1, self.last)).repeat(copies, 1, 1)
        llama = self.model.language_model.model
        if self.kernels:
            hidden = self.kernels.decode(llama, embeds, self.places, end, self.cache)
        else:
            mask = self.slots[:end] <= self.places[:, None, :, None]
            hidden = llama(embeds, self.places, mask, self.cache)
        self.logits.copy_(picture_logits(self.model, hidden, self.drawing.cfg_weight))
        self.last.add_(1)
        self._draw()

    def _draw(self) -> None:
        sampling = self.drawing.sampling
        if self.kernels and sampling.temperature:
            drawn = self.kernels.noisy_argmax(tempered(self.logits, sampling), self.keys, self.last)
        else:
            drawn = draw_tokens(self.logits, sampling, self.keys, self.last)
        self.ids.scatter_(1, self.last, drawn)


@torch.no_grad()
def draw_codes_graphed(
    model: JanusModel,
    drawing: Drawing,
    device: torch.device | str,
    progress: Progress | None = None,
    kernels: Any = None,
) -> Tensor:
    """`draw_codes` in fixed steps: ids long [count, steps]. The device is waited for once a row of the picture.

    `kernels` is the module of that name, where a step's small kernels are to be Triton's.
    """
    row = model.config.grid[1]
    with side_stream(torch.device(device)) as stream:
        code = FixedCode(model, drawing, device, kernels)
        recorded = GraphedStep(code, stream)
        for drawn in range(1, drawing.steps + 1):
            if progress is not None:
                if stream and drawn % row == 0:
                    stream.synchronize()
                progress(drawn, drawing.steps, code.ids[:, :drawn])
            if drawn < drawing.steps:
                recorded(code.start + drawn)
        check_finite(code.logits)
    return code.ids.clone()


class FixedWord:
    """The state of some answers, and the step that moves each on by a word, of which `embeds` holds the last."""

    def __init__(self, model: JanusModel, embeds: Tensor, mask: Tensor, count: int, seed: int, sampling: Sampling):
        self.language, self.sampling = model.language_model, sampling
        rows, self.start = mask.shape
        device = embeds.device
        hidden, self.places, self.cache = read_prompts(model, embeds, mask, count - 1)
        self.capacity, self.bucket = self.cache.capacity, BUCKET
        # A pad is never looked at.
        self.visible = torch.cat((mask, mask.new_ones(rows, count - 1)), dim=1)[:, None, None]
        self.slots = torch.arange(self.capacity, device=device)
        self.slot = self.cache.slots = torch.full((rows, 1), self.start - 1, device=device)
        self.keys = seed_keys(seed, rows, device)
        self.said = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.embeds = torch.empty_like(embeds[:, :1])
        self.logits = self.language.lm_head(hidden)[:, None]
        self.ids = draw_tokens(self.logits, sampling, self.keys, self.said)

    def __call__(self, end: int) -> None:
        """Draw each row's next word, looking at the cache's first `end` slots. Nothing waits for the device."""
        for count in (self.places, self.slot, self.said):
            count.add_(1)
        mask = self.visible[..., :end] & (self.slots[:end] <= self.slot[:, None, :, None])
        hidden = self.language.model(self.embeds, self.places, mask, self.cache)
        self.logits.copy_(self.language.lm_head(hidden))
        self.ids.copy_(draw_tokens(self.logits, self.sampling, self.keys, self.said))


def words_graphed(
    model: JanusModel, embeds: Tensor, mask: Tensor, count: int, seed: int, sampling: Sampling
) -> Generator[Tensor, None, None]:
    """`text.words` in fixed steps. The words' own table is none of their graphs' business: it may lie elsewhere."""
    with side_stream(embeds.device) as stream:
        word = FixedWord(model, embeds, mask, count, seed, sampling)
        recorded = GraphedStep(word, stream)
        for drawn in range(count):
            if drawn:
                word.embeds.copy_(model.embed_text(word.ids))
                recorded(word.start + drawn)
            check_finite(word.logits)
            yield word.ids[:, 0].clone()


@lru_cache
def _side_stream(device: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


@contextmanager
def side_stream(device: torch.device) -> Iterator[torch.cuda.Stream | None]:
    """On a CUDA device, work on a stream of our own, since the usual one cannot be recorded; None elsewhere.

    It is always the same one, so that what libraries keep for a stream is made outside of any graph. At the end it is
    waited for: a graph must not go while it runs.
    """
    if device.type != "cuda":
        yield None
        return
    stream = _side_stream(torch.cuda.current_device() if device.index is None else device.index)
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        stream.synchronize()


def _capture(step: Callable[[], None], pool: Any) -> torch.cuda.CUDAGraph:
    """Record a call's kernels on the current stream; they do not run. Other threads may go on using the device.

    Raises RuntimeError where the device or its driver will not be recorded, and what the call itself raises.
    """
    torch.cuda.synchronize()  # what a host moves about is then done with
    graph = torch.cuda.CUDAGraph()
    with collector_paused():  # what is collected may not be let go of while recording
        graph.capture_begin(pool, capture_error_mode="thread_local")
        try:
            step()
        except BaseException:
            with suppress(RuntimeError):  # which would hide the cause
                graph.capture_end()
            raise
        graph.capture_end()
    return graph


def graphable(parts: Iterable[nn.Module], plain: Callable[[nn.Module], bool]) -> bool:
    """Whether the weights of a step's parts all lie on one CUDA device, and are used as they lie."""
    layers = [layer for part in parts for layer in part.modules()]
    layers = [layer for layer in layers if any(True for _ in layer.parameters(recurse=False))]
    devices = {weight.device for layer in layers for weight in layer.parameters(recurse=False)}
    return len(devices) == 1 and devices.pop().type == "cuda" and all(plain(layer) for layer in layers)
