"""Faster Linear layers on a CPU, for the length of one call.

1. A drawing reads each weight hundreds of times. In the layout of the CPU's matrix kernels a reading is faster than in
   a file's layout, the more so the more rows share it. This takes a second copy of the big layers, so it is done only
   where memory holds that copy twice.
2. A single row needs no copy: PyTorch has a kernel that reads the stored weights as fast as memory delivers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

from ..model import cpu_ops
from ..model.quantised import QuantisedLinear
from .execution import Unpatched, never_patched

# Layers with fewer weights stay in the processor's cache, and gain nothing.
LEAST = 2**21
# The kernels take longer for fewer rows than this, by half for two rows: the missing ones are filled up with zeros.
FAST_ROWS = 5
# Free memory must hold the copies this many times, which leaves as much for the work and for others.
ROOM = 2


@contextmanager
def fast_layers(
    parts: Iterable[nn.Module],
    rows: int,
    device: torch.device,
    unpatched: Unpatched = never_patched,
    *,
    least: int | None = None,
) -> Iterator[None]:
    """Within it, the big Linear layers of `parts` compute in the fastest way for `rows` rows at once, on a CPU.

    Layers that a host patches at each use are left alone. int8 layers that are copied round their inputs to 8 bits,
    row by row. `least` is how many weights make a layer big, in place of LEAST.
    """
    layers = [layer for layer in _layers(parts, rows, device, least or LEAST) if unpatched(layer)]
    try:
        for layer in layers:
            layer.__dict__["forward"] = _one_row(layer) if rows == 1 else _packed(layer, rows)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def copied_bytes(parts: Iterable[nn.Module], rows: int, device: torch.device) -> int:
    """The most that `fast_layers` allocates."""
    return 0 if rows == 1 else sum(map(_copy_bytes, _layers(parts, rows, device, LEAST)))


def _copy_bytes(layer: nn.Linear) -> int:
    """The weight, the filled up rows, and for int8 the scales and zero points."""
    eight_bit = isinstance(layer, QuantisedLinear)
    rows = FAST_ROWS * layer.in_features * (4 if eight_bit else layer.weight.itemsize)
    return layer.weight.nbytes + rows + (12 * layer.out_features if eight_bit else 0)


def _layers(parts: Iterable[nn.Module], rows: int, device: torch.device, least: int) -> list[nn.Linear]:
    """The layers to change; none where memory is short. Weights may be on the CPU and be used elsewhere."""
    if device.type != "cpu":
        return []
    kinds = {torch.bfloat16: "one row of bfloat16"} if rows == 1 else PACKED
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]
    layers = [layer for layer in layers if layer.weight.device.type == "cpu" and layer.weight.numel() >= least]
    layers = [layer for layer in layers if layer.weight.dtype in kinds and cpu_ops.works(kinds[layer.weight.dtype])]
    enough = rows == 1 or psutil.virtual_memory().available >= ROOM * sum(map(_copy_bytes, layers))
    return layers if enough else []


PACKED = {torch.float32: "packed float32", torch.bfloat16: "packed bfloat16", torch.int8: "packed int8"}


def _one_row(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's `forward` by the kernel for one row."""

    def forward(x: Tensor) -> Tensor:
        if x.numel() != layer.in_features:
            return type(layer).forward(layer, x)
        y = cpu_ops.one_row(x, layer.weight)
        return y if layer.bias is None else y + layer.bias

    return forward


def _packed(layer: nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    """The layer's `forward` on a copy of its weight."""
    rows = max(rows, FAST_ROWS)
    if isinstance(layer, QuantisedLinear):
        packed, dtype = cpu_ops.pack_int8(layer.weight, rows), torch.float32
        scale, zeros = layer.scale.flatten() / 127, torch.zeros(layer.out_features, dtype=torch.int64)
        multiply = lambda x: cpu_ops.packed_int8_linear(packed, scale, zeros, x)
    else:
        packed, dtype = cpu_ops.pack(layer.weight, rows), layer.weight.dtype
        multiply = lambda x: cpu_ops.packed_linear(packed, x)
    filled = torch.zeros(FAST_ROWS, layer.in_features, dtype=dtype)

    def forward(x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        count = len(flat)
        if count < FAST_ROWS:
            filled[:count] = flat
            flat = filled
        y = multiply(flat)[:count].to(x.dtype).unflatten(0, x.shape[:-1])
        return y if layer.bias is None else y + layer.bias

    return forward
