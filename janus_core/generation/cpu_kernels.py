"""Faster Linear layers on a CPU, for the length of one call.

1. A drawing reads each weight hundreds of times. Packed for the CPU's matrix kernels, weights are read faster, more so
   with more rows. Packing copies the big layers, so it is done only if free memory is at least twice the copies.
2. A single row needs no copy: PyTorch has a kernel that reads the stored weights as fast as memory delivers them.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn

from ..model import cpu_ops
from ..model.quantised import QuantisedLinear
from .execution import Execution

# Layers with fewer weights stay in the processor's cache, and gain nothing.
MIN_PACKED_WEIGHTS = 2**21
# The kernels are slower below this many rows (1.5x for two), so smaller batches are zero-padded to it.
MIN_PACKED_ROWS = 5
# Free memory must hold the copies this many times, which leaves as much for the work and for others.
FREE_MEMORY_FACTOR = 2
# The probe of each kernel, by the dtype of the weights that it reads.
ONE_ROW = {torch.bfloat16: "one row of bfloat16"}
PACKED = {torch.float32: "packed float32", torch.bfloat16: "packed bfloat16", torch.int8: "packed int8"}


@contextmanager
def fast_layers(
    parts: Iterable[nn.Module], *, rows: int, execution: Execution, min_weights: int | None = None
) -> Iterator[None]:
    """Inside the block, on a CPU, large Linear layers of `parts` use the fastest kernel for `rows` rows.

    Layers patched at use keep theirs. Copied int8 layers quantise their inputs to 8 bits per row. `min_weights`
    overrides MIN_PACKED_WEIGHTS.
    """
    layers = _layers(parts, rows, execution.device, min_weights or MIN_PACKED_WEIGHTS)
    layers = [layer for layer in layers if execution.unpatched(layer)]
    before = [layer.__dict__.get("forward") for layer in layers]  # of a run whose progress callback began this one
    try:
        for layer in layers:
            layer.__dict__["forward"] = _one_row(layer) if rows == 1 else _packed(layer, rows)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward


def copied_bytes(parts: Iterable[nn.Module], *, rows: int, device: torch.device) -> int:
    """What `fast_layers` would allocate with the memory that is free now."""
    return 0 if rows == 1 else sum(map(_copy_bytes, _layers(parts, rows, device, MIN_PACKED_WEIGHTS)))


def _copy_bytes(layer: nn.Linear) -> int:
    """The weight, the padded rows, and for int8 the scales and zero points."""
    eight_bit = isinstance(layer, QuantisedLinear)
    rows = MIN_PACKED_ROWS * layer.in_features * (4 if eight_bit else layer.weight.itemsize)
    return layer.weight.nbytes + rows + (12 * layer.out_features if eight_bit else 0)


def _layers(parts: Iterable[nn.Module], rows: int, device: torch.device, min_weights: int) -> list[nn.Linear]:
    """The layers to change; none if memory is short. Weights on the CPU may be computed elsewhere, so `device` decides."""
    if device.type != "cpu":
        return []
    probes = ONE_ROW if rows == 1 else PACKED
    layers = [
        layer
        for part in parts
        for layer in part.modules()
        if isinstance(layer, nn.Linear)
        and layer.weight.device.type == "cpu"
        and layer.weight.numel() >= min_weights
        and layer.weight.dtype in probes
        and cpu_ops.is_usable(probes[layer.weight.dtype])
    ]
    copies = 0 if rows == 1 else sum(map(_copy_bytes, layers))
    return layers if psutil.virtual_memory().available >= FREE_MEMORY_FACTOR * copies else []


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
    rows = max(rows, MIN_PACKED_ROWS)
    if isinstance(layer, QuantisedLinear):
        packed, dtype = cpu_ops.pack_int8(layer.weight, rows), torch.float32
        scale, zeros = layer.scale.flatten() / 127, torch.zeros(layer.out_features, dtype=torch.int64)
        multiply = lambda x: cpu_ops.packed_int8_linear(packed, x, scale=scale, zeros=zeros)
    else:
        packed, dtype = cpu_ops.pack(layer.weight, rows), layer.weight.dtype
        multiply = lambda x: cpu_ops.packed_linear(packed, x)
    padded = torch.zeros(MIN_PACKED_ROWS, layer.in_features, dtype=dtype)

    def forward(x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        count = len(flat)
        if count < MIN_PACKED_ROWS:
            padded[:count] = flat
            flat = padded
        y = multiply(flat)[:count].to(x.dtype).unflatten(0, x.shape[:-1])
        return y if layer.bias is None else y + layer.bias

    return forward
