"""Drawing and answering on a CPU: big Linear layers rearranged for its matrix kernels, for the length of one run.

A run reads each weight hundreds of times; in the kernels' own layout that is faster than as files hold it, the more so
the more rows share one reading. It takes a second copy of those layers, so it is done only where there is room for one.
A single row needs none: for it there is a kernel that reads weights as they lie as fast as memory gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.quantised import QuantisedLinear

# Layers below this many weights stay in the processor's cache, and gain nothing.
LEAST = 2**21
# Fewer rows than so many take the kernels longer, by half for two rows: zeros make up the number.
FAST_ROWS = 5
# What stands for 0 in 8 bits without a sign, and a half to round what is cut off.
MIDDLE = torch.tensor(128.5)
# Free memory must hold the copies so many times, to leave as much for the work and for others.
ROOM = 2

Plain = Callable[[nn.Module], bool]


@contextmanager
def prepacked(
    parts: Iterable[nn.Module],
    rows: int,
    device: torch.device,
    plain: Plain = lambda layer: True,
    least: int | None = None,
) -> Iterator[None]:
    """Within it, the big Linear layers of `parts`, when they compute on the CPU, take the fastest way for `rows` at once.

    That is from rearranged copies, but for one row. `plain` tells layers that compute with their weight as it lies from
    those that a host patches at each use, which are left alone. int8 layers of which there are copies round what comes
    in to 8 bits too, row by row. `least` is how many weights make a layer big, in place of LEAST.
    """
    layers = [layer for layer in _layers(parts, rows, device, least or LEAST) if plain(layer)]
    try:
        for layer in layers:
            layer.__dict__["forward"] = _one_row(layer) if rows == 1 else _packed(layer, rows)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 fast."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def copied_bytes(parts: Iterable[nn.Module], rows: int, device: torch.device) -> int:
    """What `prepacked` takes at most."""
    return 0 if rows == 1 else sum(map(_copy_bytes, _layers(parts, rows, device, LEAST)))


def _copy_bytes(layer: nn.Linear) -> int:
    """The copy, its filled up rows, and the scales and zero points of 8 bits."""
    small = isinstance(layer, QuantisedLinear)
    rows = FAST_ROWS * layer.in_features * (4 if small else layer.weight.itemsize)
    return layer.weight.nbytes + rows + (12 * layer.out_features if small else 0)


def _layers(parts: Iterable[nn.Module], rows: int, device: torch.device, least: int) -> list[nn.Linear]:
    """The layers to run otherwise, or none where there is no room. Weights may lie on the CPU to be used elsewhere."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return []
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)]
    layers = [layer for layer in layers if layer.weight.device.type == "cpu" and layer.weight.numel() >= least]
    if rows == 1:
        return [layer for layer in layers if layer.weight.dtype == torch.bfloat16 and multiplies_bfloat16()]
    layers = [layer for layer in layers if _packable(layer.weight)]
    enough = psutil.virtual_memory().available >= ROOM * sum(map(_copy_bytes, layers))
    return layers if enough else []


def _packable(weight: Tensor) -> bool:
    if weight.dtype == torch.int8:
        # Without VNNI the products of 8 bits saturate; older versions of torch cannot say.
        return hasattr(torch.cpu, "_is_vnni_supported") and torch.cpu._is_vnni_supported()
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and multiplies_bfloat16())


def _one_row(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's `forward` by torch's own kernel, which reads bfloat16 twice as fast as mkldnn's where one row comes."""

    def forward(x: Tensor) -> Tensor:
        if x.numel() != layer.in_features:
            return type(layer).forward(layer, x)
        enabled = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)
        try:
            y = F.linear(x, layer.weight)
        finally:
            torch._C._set_mkldnn_enabled(enabled)
        return y if layer.bias is None else y + layer.bias

    return forward


def _packed(layer: nn.Linear, rows: int) -> Callable[[Tensor], Tensor]:
    """The layer's `forward` on a copy of its weight."""
    rows, kind = max(rows, FAST_ROWS), layer.weight.dtype
    if isinstance(layer, QuantisedLinear):
        weight = torch.ops.onednn.qlinear_prepack(layer.weight, [rows, layer.in_features])
        zeros, kind = torch.zeros(layer.out_features, dtype=torch.int64), torch.float32
        multiply = partial(_dynamic, weight, layer.scale.flatten() / 127, zeros)
    else:
        multiply = partial(_linear, torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), rows))
    room = torch.zeros(FAST_ROWS, layer.in_features, dtype=kind)

    def forward(x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        count = len(flat)
        if count < FAST_ROWS:
            room[:count] = flat
            flat = room
        y = multiply(flat)[:count].to(x.dtype).unflatten(0, x.shape[:-1])
        return y if layer.bias is None else y + layer.bias

    return forward


def _linear(packed: Tensor, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _dynamic(packed: Tensor, scale: Tensor, zeros: Tensor, x: Tensor) -> Tensor:
    """In float32. `scale` is that of the weights for a row whose largest number is 127."""
    x = x.float()
    largest = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12)
    small = torch.add(MIDDLE, x / largest, alpha=127).to(torch.uint8)
    y = torch.ops.onednn.qlinear_pointwise(
        small, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y.mul_(largest)
