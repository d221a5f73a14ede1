"""Which kernels a model uses on a CUDA device, decided there: nothing runs that was not compared with PyTorch on that card.

The first drawing or answer with a model on a device compares, once a process:

1. each Triton kernel with PyTorch in float32, on random tensors of the model's sizes;
2. steps of the transformer with Triton's kernels, and replays of a recorded step, with the same steps run plainly;
3. how long each way takes that computes the right numbers. The fastest is used.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from dataclasses import dataclass, field, replace
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.llama import Llama, rope_table, rotate
from .cache import DeviceCache, additive, attention_kernels, looks
from .codes import CodeDraw, Drawing
from .context import Context
from .execution import Execution
from .recorder import GraphedStep, out_of_memory, side_stream
from .sampling import Sampling

SWITCH = "JANUS_KERNELS"  # an environment variable; "plain" leaves out Triton and the check
COMPARED, TIMED = 5, 12  # steps
DRAWS = 64
# How far hidden states may be from those of plain steps, as a share of their norm: several times what rounding does.
FARTHEST = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-4, torch.float64: 1e-9}
PLAIN, GRAPH, TRITON = "plain steps", "the plain graph", "Triton"
LEAST_SAME = 0.98  # share of equal draws: float32 may round a tie differently


@dataclass
class Report:
    """What a check found. `seconds` is the time of a step by each right way, `faults` why a way is not used."""

    execution: Execution
    seconds: dict[str, float] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    compiling: float = 0.0  # seconds that Triton took for its kernels

    def __str__(self) -> str:
        best, *others = sorted(self.seconds, key=self.seconds.__getitem__)
        parts = [f"{best} {self.seconds[others[0]] / self.seconds[best]:.1f} times {others[0]}"] if others else [best]
        parts += [f"{way} off: {why}" for way, why in self.faults.items()]
        if self.compiling > 1:
            parts.append(f"Triton compiled its kernels in {self.compiling:.0f} s")
        return "; ".join(parts)


_decided: dict[object, Execution] = {}


def decide(execution: Execution, llama: Llama, embeds: Tensor) -> Execution:
    """`execution` with its kernels and graphs decided, where they are "auto". `embeds` [rows, T, D] are a prompt's.

    Without all weights on a CUDA device there is nothing to decide: plain steps run.
    """
    if execution.kernels != "auto":
        return execution
    plain = replace(execution, kernels=None)
    parts = [llama.layers, llama.norm]
    if execution.device.type != "cuda" or os.environ.get(SWITCH) == "plain" or not execution.weights_ready(parts):
        return plain
    stored = next(llama.layers.parameters()).dtype
    key = execution.device, execution.graphs, embeds.dtype, stored, llama.config
    if key not in _decided:
        try:
            report = examine(plain, llama, embeds, triton_kernels())
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return plain  # another call, with more memory, will check
        _decided[key] = report.execution
        name = torch.cuda.get_device_name(execution.device)
        logging.getLogger(__name__).info("Janus: checked on %s: %s", name, report)
    return _decided[key]


def triton_kernels() -> ModuleType | None:
    """The module, or None without a Triton that can be imported."""
    try:
        return importlib.import_module(".triton_kernels", __package__)
    except Exception:  # noqa: BLE001 (a broken installation raises anything)
        return None


@torch.no_grad()
def examine(plain: Execution, llama: Llama, embeds: Tensor, kernels: ModuleType | None) -> Report:
    """Compare and time each way to run a step. `plain` has no kernels. Raises RuntimeError when memory runs out."""
    report = Report(replace(plain, graphs=False))
    expected, report.seconds[PLAIN] = _steps(report.execution, llama, embeds)
    ways = {PLAIN: report.execution}
    if plain.uses_graphs([llama.layers, llama.norm]):
        ways[GRAPH] = plain
    if kernels:
        ways[TRITON] = replace(plain, kernels=kernels)
    for way, execution in list(ways.items())[1:]:
        try:
            if execution.triton:
                start = time.perf_counter()
                compare_kernels(execution.triton, llama, embeds.dtype, plain.device)
                report.compiling = time.perf_counter() - start
            found, seconds = _steps(execution, llama, embeds)
            if way == GRAPH and not GraphedStep.possible:
                raise ValueError("the device does not record it")
            _compare("hidden state", found, expected, FARTHEST[embeds.dtype])
        except Exception as error:
            if out_of_memory(error):
                raise
            report.faults[way] = " ".join(str(error).split())[:200] or type(error).__name__
        else:
            report.seconds[way] = seconds
    report.execution = ways[min(report.seconds, key=report.seconds.__getitem__)]
    return report


class _Step:
    """A step of the transformer alone, on fixed memory: each call reads the same embedding at the next slot."""

    def __init__(self, llama: Llama, embeds: Tensor, execution: Execution):
        rows, length, _ = embeds.shape
        self.context = Context(llama, rows, length + COMPARED + TIMED, execution, embeds.dtype)
        self.context.read(embeds)
        self.capacity = self.context.capacity
        self.embeds = embeds[:, -1:].clone()
        self.hidden = torch.empty_like(self.embeds)
        self.slots = torch.full((rows, 1), length - 1, device=embeds.device)

    def __call__(self, end: int) -> None:
        self.slots.add_(1)
        self.hidden.copy_(self.context.step(self.embeds.clone(), self.slots, end))


def _steps(execution: Execution, llama: Llama, embeds: Tensor) -> tuple[Tensor, float]:
    """Hidden states of COMPARED steps after a prompt, [steps, rows, 1, D], and how long a step takes."""
    graphs, device = execution.uses_graphs([llama.layers, llama.norm]), execution.device
    with attention_kernels(device), side_stream(device, graphs) as stream:
        step, length = _Step(llama, embeds, execution), embeds.shape[1]
        run = GraphedStep(step, stream, step.capacity)
        hidden = []
        for i in range(COMPARED):
            step.hidden.fill_(torch.nan)
            run(length + i + 1)
            hidden.append(step.hidden.clone())
        found = torch.stack(hidden).cpu()  # which waits for the device
        start = time.perf_counter()
        for i in range(COMPARED, COMPARED + TIMED):
            run(length + i + 1)
        step.hidden.cpu()
        return found, (time.perf_counter() - start) / TIMED


def compare_kernels(kernels: ModuleType, llama: Llama, dtype: torch.dtype, device: torch.device) -> None:
    """Each kernel beside PyTorch in float64, from the same numbers. Raises ValueError for the first that differs."""
    config, exact = replace(llama.config, num_hidden_layers=1), torch.float64
    width, heads, size = config.hidden_size, config.num_attention_heads, config.head_dim
    near = torch.finfo(dtype).eps * (1 if dtype.itemsize == 2 else 100)
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    stream, more, norm = random(2, 1, width), random(2, 1, width), llama.norm
    added = stream + more
    normed = F.rms_norm(added.to(exact), (width,), norm.weight.to(exact), norm.eps)
    _compare("norm", kernels._add_norm(stream, more, norm), normed, near)
    _compare("residual sum", stream, added, near)

    gate, up = (both := random(2, 1, 2 * config.intermediate_size)).to(exact).chunk(2, dim=-1)
    _compare("MLP", kernels._silu_mul(both), F.silu(gate) * up, near)

    qkv, slots, end = random(2, 1, 3 * width), torch.tensor([[130], [70]], device=device), 192
    cache = DeviceCache(config, 2, end, device, dtype)
    cache.keys[0], cache.values[0] = random(2, heads, end, size), random(2, heads, end, size)
    (q, k, v), rope = qkv.view(2, 3, heads, 1, size).unbind(1), rope_table(slots, size, config.rope_theta, dtype)
    q, k = (rotate(x.to(exact), *rope).to(dtype) for x in (q, k))
    where = slots[:, None, :, None].expand_as(k)
    keys, values = cache.keys[0].scatter(2, where, k), cache.values[0].scatter(2, where, v)
    scores = q.to(exact) @ keys.to(exact).mT * size**-0.5 + additive(looks(slots, end, None), exact)
    seen = (scores.softmax(-1) @ values.to(exact)).transpose(1, 2).flatten(2)
    _compare("attention", kernels._attend(qkv, (rope[0][:, 0], rope[1][:, 0]), slots, end, cache, 0), seen, near)
    _compare("keys", cache.keys[0], keys, near)
    _compare("values", cache.values[0], values, 0)

    weight = torch.randint(-127, 128, (width, width), generator=generator, device=device, dtype=torch.int8)
    scale = torch.rand(width, 1, generator=generator, device=device)
    product = stream.to(exact) @ (weight.to(exact) * scale).T
    _compare("int8 product", kernels.int8_linear(stream, weight, scale), product, near)

    index = torch.arange(DRAWS, device=device)[:, None]
    logits = torch.randn(2 * DRAWS, 1, 16384, generator=generator, device=device)
    for min_p in (0.0, 0.05):
        drawing = Drawing(prompt=[0], pad=0, steps=DRAWS, count=DRAWS, sampling=Sampling(min_p=min_p))
        plain, fused = (CodeDraw(drawing, device, by)(logits, index) for by in (None, kernels))
        same = float((plain == fused).double().mean())
        if same < LEAST_SAME:
            raise ValueError(f"only {same:.0%} of its draws are PyTorch's")


def _compare(what: str, found: Tensor, expected: Tensor, farthest: float) -> None:
    """Raise ValueError if, in any row, `found` is farther from `expected` than this share of its norm."""
    found, expected = (x.double().flatten(0, -2) for x in (found, expected))
    distance = float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).amax())
    if not distance <= farthest:  # NaN too
        raise ValueError(f"its {what} differs from PyTorch's by {distance:.2g}, where rounding explains {farthest:.2g}")
