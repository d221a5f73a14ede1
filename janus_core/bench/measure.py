"""What is timed, and the floor of each time: how long it takes to read a step's weights and KV cache from memory once."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..memory import cache_bytes
from ..model.janus import JanusModel
from .engine import SPECIAL, Engine
from .table import Row


def synchronize(device: torch.device) -> None:
    """Wait for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, device work included."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


class Clock:
    """Records the start and the times of the first and last of `tokens`; engines call it once per token."""

    def __init__(self, tokens: int, device: torch.device):
        self.tokens, self.device = tokens, device
        self.called = 0
        self.start = self.first = self.last = self._now()

    def __call__(self) -> None:
        self.called += 1
        if self.called == 1:
            self.first = self._now()
        elif self.called == self.tokens:
            self.last = self._now()

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


@lru_cache
def _block(device: torch.device) -> Tensor:
    """More than any processor's cache holds: half a gigabyte."""
    return torch.ones(2**27, device=device)


def bandwidth(device: torch.device) -> float:
    """Bytes a second at which the device reads its memory now: the best of three sums over a large tensor."""
    block = _block(device)
    return block.nbytes / min(seconds(block.sum, device) for _ in range(3))


def step_bytes(model: JanusModel, count: int, context: int) -> int:
    """What one decode step of `count` guided pictures must read: decoder, norm, head, aligner, and the KV cache."""
    parts = [part for part in model.drawing_parts if part is not model.gen_embed]  # a step reads few of its rows
    dtype = model.language_model.model.norm.weight.dtype
    cache = cache_bytes(model.config.llama, dtype, rows=2 * count, length=context)
    return cache + sum(weight.nbytes for part in parts for weight in part.parameters())


def alternate(calls: Mapping[str, Callable[[], tuple[float, ...]]], rows: list[Row], *, rounds: int) -> list[Row]:
    """Fill each row with the medians of one of the figures that a call returns; returns the rows.

    The calls take turns, so that a noisy machine is noisy for all of them.
    """
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    for name, figures in found.items():
        for row, values in zip(rows, zip(*figures, strict=True), strict=True):
            row.values[name] = statistics.median(values)
    return rows


def prompt_of(length: int) -> list[int]:
    """A drawing prompt of `length` ids."""
    return [SPECIAL["bos"], *(10 + i % 50 for i in range(length - 2)), SPECIAL["begin_of_image"]]


def decode_step(
    engines: Sequence[Engine], model: JanusModel, *, count: int, context: int, steps: int, rounds: int
) -> Row:
    """Milliseconds of a decode step of `count` pictures, the mean of the `steps` after a prompt of `context` tokens.

    The floor is measured in turn with the engines.
    """
    device = next(model.parameters()).device

    def draw(engine: Engine) -> tuple[float]:
        clock = Clock(steps + 1, device)
        engine.draw(prompt_of(context), steps=steps + 1, count=count, token=clock)
        return ((clock.last - clock.first) / steps * 1e3,)

    calls: dict[str, Callable[[], tuple[float, ...]]] = {e.name: lambda e=e: draw(e) for e in engines}
    calls["floor"] = lambda: (step_bytes(model, count, context) / bandwidth(device) * 1e3,)
    [row] = alternate(calls, [Row(f"step, N={count}, context {context}", "ms")], rounds=rounds)
    row.floor = row.values.pop("floor")
    return row


def whole_picture(engines: Sequence[Engine], model: JanusModel, *, count: int) -> Row:
    """Seconds from a prompt of 24 tokens to all codes of `count` pictures."""
    device = next(model.parameters()).device
    steps = math.prod(model.config.grid)
    row = Row(f"{steps} codes, N={count}", "s")
    for engine in engines:
        draw = lambda engine=engine: engine.draw(prompt_of(24), steps=steps, count=count, token=lambda: None)
        row.values[engine.name] = seconds(draw, device)
    row.floor = sum(step_bytes(model, count, 24 + step) for step in range(steps)) / bandwidth(device)
    return row


def answering(engines: Sequence[Engine], model: JanusModel, *, tokens: int, rounds: int) -> list[Row]:
    """Seconds to the first token of an answer about a picture, and the tokens per second after it."""
    weight, vision = next(model.parameters()), model.config.vision
    pixels = weight.new_zeros(1, 3, vision.image_size, vision.image_size)
    prompt = [*prompt_of(40), *[SPECIAL["image"]] * vision.tokens, *prompt_of(12)]

    def answer(engine: Engine) -> tuple[float, float]:
        clock = Clock(tokens + 1, weight.device)
        engine.answer(prompt, pixels, count=tokens + 1, token=clock)
        return clock.first - clock.start, tokens / (clock.last - clock.first)

    rows = [Row("first token: picture + question", "s"), Row("answer", "tokens/s")]
    return alternate({e.name: lambda e=e: answer(e) for e in engines}, rows, rounds=rounds)


@torch.no_grad()
def vq_decode(model: JanusModel, others: Mapping[str, Callable[[Tensor], object]], *, rounds: int) -> Row:
    """Seconds to turn the codes of one picture into pixels; `others` are other decoders of codes long [1, h * w]."""
    device = next(model.parameters()).device
    h, w = model.config.grid
    codes = torch.zeros(1, h * w, dtype=torch.long, device=device)
    decoders = {**others, "ours": lambda codes: model.gen_vision_model.decode(codes, (h, w))}
    calls = {name: lambda decode=decode: (seconds(lambda: decode(codes), device),) for name, decode in decoders.items()}
    return alternate(calls, [Row("VQ decode, N=1", "s")], rounds=rounds)[0]
