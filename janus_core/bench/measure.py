"""What is timed, and against which floor: the time it takes to read a step's weights and KV cache once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..config import JanusConfig
from ..model.janus import JanusModel
from ..model.quantised import quantise
from ..precision import Precision
from ..weights.loading import empty_model
from .engines import SPECIAL, Engine


@dataclass
class Row:
    """One line of the table: seconds by engine, each a median, and the floor where there is one."""

    what: str
    unit: str
    values: dict[str, float] = field(default_factory=dict)
    floor: float | None = None


def random_model(config: JanusConfig, device: torch.device, dtype: torch.dtype) -> JanusModel:
    """A model of random weights: every tensor repeats one stretch of small noise, norms are ones."""
    model = JanusModel(config, device="meta", dtype=dtype).to_empty(device=device).requires_grad_(False).eval()
    noise = (torch.randn(2**22, generator=torch.Generator().manual_seed(0)) * 0.02).to(device, dtype)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            flat = parameter.view(-1)
            for start in range(0, flat.numel(), noise.numel()):
                piece = flat[start : start + noise.numel()]
                piece.copy_(noise[: piece.numel()])
    return model


def in_8_bits(model: JanusModel) -> JanusModel:
    """The model with its big Linear layers in int8; all other tensors are the very same."""
    dtype = model.language_model.model.norm.weight.dtype
    small = empty_model(model.config, Precision.of("int8", dtype))
    state = {}
    for key, tensor in model.state_dict().items():
        if small.get_parameter(key).dtype == torch.int8:
            state[key], state[f"{key}_scale"] = quantise(tensor, torch.int8)
        else:
            state[key] = tensor
    small.load_state_dict(state, assign=True)
    return small.requires_grad_(False).eval()


def synchronize(device: torch.device) -> None:
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
    """Tells the prefill from the steps: called at each token, it keeps when the first one came."""

    def __init__(self, device: torch.device):
        self.device = device
        self.start = self.now()
        self.first = 0.0

    def now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def __call__(self) -> None:
        if not self.first:
            self.first = self.now()


class Bandwidth:
    """Bytes a second at which memory is read: by a sum over far more than any cache holds."""

    def __init__(self, device: torch.device):
        self.block = torch.ones(2**27, dtype=torch.float32, device=device)

    def __call__(self) -> float:
        """As it is now, the best of three."""
        return self.block.nbytes / min(seconds(self.block.sum, self.block.device) for _ in range(3))


def step_bytes(model: JanusModel, count: int, context: int) -> int:
    """What one decode step of `count` guided pictures must read: decoder, norm, head, aligner, and the KV cache."""
    llama = model.language_model.model
    parts = [part for part in model.drawing_parts if part is not model.gen_embed]  # of which few rows are read
    weights = sum(p.nbytes for part in parts for p in part.parameters())
    element = llama.norm.weight.element_size()
    cache = 2 * llama.config.num_hidden_layers * llama.config.hidden_size * element * context * 2 * count
    return weights + cache


def alternate(calls: dict[str, Callable[[], tuple[float, ...]]], rows: Sequence[Row], rounds: int) -> None:
    """Fill in each row with the medians of one of the figures that a call gives.

    The calls take turns, so that a noisy machine is noisy for all of them.
    """
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(call())
    for name, figures in found.items():
        for row, values in zip(rows, zip(*figures, strict=True), strict=True):
            row.values[name] = statistics.median(values)


def prompt_of(length: int) -> list[int]:
    """A drawing prompt of `length` ids."""
    return [SPECIAL["bos"], *(10 + i % 50 for i in range(length - 2)), SPECIAL["begin_of_image"]]


def decode_step(
    engines: Sequence[Engine],
    model: JanusModel,
    count: int,
    context: int,
    steps: int,
    rounds: int,
    bandwidth: Bandwidth,
) -> Row:
    """Milliseconds of a decode step at `context` tokens, over the `steps` that follow the prefill.

    The floor takes its turn among the engines.
    """
    device = next(model.parameters()).device
    prompt = prompt_of(context)

    def figure(engine: Engine) -> tuple[float]:
        with engine.ready(count):
            clock = Clock(device)
            engine.draw(prompt, steps + 1, count, clock)
            return ((clock.now() - clock.first) / steps * 1e3,)

    row = Row(f"step, N={count}, context {context}", "ms")
    calls: dict[str, Callable[[], tuple[float, ...]]] = {e.name: lambda e=e: figure(e) for e in engines}
    calls["floor"] = lambda: (step_bytes(model, count, context) / bandwidth() * 1e3,)
    alternate(calls, [row], rounds)
    row.floor = row.values.pop("floor")
    return row


def whole_picture(engines: Sequence[Engine], model: JanusModel, count: int, bandwidth: Bandwidth) -> Row:
    """Seconds from a 24-token prompt to all codes of `count` pictures."""
    device = next(model.parameters()).device
    steps = model.config.grid[0] * model.config.grid[1]
    prompt = prompt_of(24)
    row = Row(f"{steps} codes, N={count}", "s")

    def draw(engine: Engine) -> None:
        with engine.ready(count):
            engine.draw(prompt, steps, count, lambda: None)

    row.values = {e.name: seconds(lambda e=e: draw(e), device) for e in engines}
    row.floor = sum(step_bytes(model, count, 24 + step) for step in range(steps)) / bandwidth()
    return row


def answering(engines: Sequence[Engine], model: JanusModel, words: int, rounds: int) -> list[Row]:
    """Prefill of one picture and a question in seconds, and words a second after it."""
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    size, image_id = model.config.vision.image_size, 9
    pixels = torch.zeros(1, 3, size, size, device=device, dtype=dtype)
    prompt = [*prompt_of(40), *[image_id] * model.config.vision.tokens, *prompt_of(12)]
    first = Row("first word: picture + question", "s")
    rate = Row("answer", "words/s")

    def figures(engine: Engine) -> tuple[float, float]:
        clock = Clock(device)
        engine.answer(prompt, image_id, pixels, words + 1, clock)
        return clock.first - clock.start, words / (clock.now() - clock.first)

    alternate({e.name: lambda e=e: figures(e) for e in engines}, [first, rate], rounds)
    return [first, rate]


def vq_decode(model: JanusModel, twin: Any, rounds: int) -> Row:
    """Seconds to turn the codes of one picture into pixels; `twin` is transformers' Janus of the same weights."""
    device = next(model.parameters()).device
    h, w = model.config.grid
    ids = torch.zeros(1, h * w, dtype=torch.long, device=device)
    decoders: dict[str, Callable[[], Tensor]] = {
        "transformers": lambda: twin.decode_image_tokens(ids),
        "ours": lambda: model.gen_vision_model.decode(ids, (h, w)),
    }
    row = Row("VQ decode, N=1", "s")
    with torch.no_grad():
        alternate({name: lambda d=decode: (seconds(d, device),) for name, decode in decoders.items()}, [row], rounds)
    return row
