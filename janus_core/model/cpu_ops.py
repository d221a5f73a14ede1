"""PyTorch's private CPU kernels for Linear layers, in one place. They were run with torch 2.13.

Each is probed once on small tensors. One that is missing or computes something else is not used: callers ask
`is_usable` first and otherwise take the plain layer, and one line in the log says so.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# The zero point 128, plus 0.5 so that truncation rounds to nearest.
ZERO_POINT_AND_HALF = torch.tensor(128.5)
# Relative error at which a kernel counts as wrong, well above its rounding to bfloat16 or 8 bits.
TOLERANCE = 0.05


# While one thread has switched mkldnn off, another must not take that for the state to restore.
_switching = threading.Lock()


def one_row(x: Tensor, weight: Tensor) -> Tensor:
    """x [1, in] @ weight.T by torch's own kernel, which for one row reads bfloat16 twice as fast as mkldnn's."""
    with _switching:
        enabled = torch._C._get_mkldnn_enabled()
        torch._C._set_mkldnn_enabled(False)  # in the whole process
        try:
            return F.linear(x, weight)
        finally:
            torch._C._set_mkldnn_enabled(enabled)


def pack(weight: Tensor, rows: int) -> Tensor:
    """A weight [out, in] in mkldnn's own layout for `rows` rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)


def packed_linear(packed: Tensor, x: Tensor) -> Tensor:
    """x [rows, in] times a weight from `pack`."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def pack_int8(weight: Tensor, rows: int) -> Tensor:
    """An int8 weight [out, in] in onednn's own layout for `rows` rows."""
    return torch.ops.onednn.qlinear_prepack(weight, [rows, weight.shape[1]])


def packed_int8_linear(packed: Tensor, x: Tensor, *, scale: Tensor, zeros: Tensor) -> Tensor:
    """x [rows, in] times a weight from `pack_int8`, float32 [rows, out]; x is rounded to 8 bits, row by row.

    1. The kernel takes unsigned inputs with one zero point, so each row is scaled to -127..127 and moved up by 128.
    2. `scale` [out] is the weight's own divided by 127; each row's largest number is multiplied back afterwards.
    3. `zeros` [out] are the weight's zero points.
    """
    x = x.float()
    largest = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12)
    small = torch.add(ZERO_POINT_AND_HALF, x / largest, alpha=127).to(torch.uint8)
    y = torch.ops.onednn.qlinear_pointwise(
        small, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return y.mul_(largest)


def int8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x bfloat16 [rows, in] @ an int8 weight.T, unscaled, without casting the weight."""
    # The kernel's own scales would be rounded to bfloat16.
    return torch.ops.aten._weight_int8pack_mm(x.contiguous(), weight, torch.ones(len(weight), dtype=x.dtype))


def cpu_compute_dtype() -> torch.dtype:
    """The smallest dtype that this CPU computes fast in: bfloat16 if it has instructions for it, else float32."""
    return torch.bfloat16 if is_usable("fast bfloat16") else torch.float32


def _test_values(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, shape[0] * shape[1]).view(shape).sin_().mul_(3).cos_()


def _fast_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _vnni() -> bool:  # without it the products of 8 bits saturate
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


def _packed_int8(x: Tensor, weight: Tensor) -> Tensor:
    scale, zeros = torch.full((len(weight),), 1 / 127), torch.zeros(len(weight), dtype=torch.int64)
    return packed_int8_linear(pack_int8(weight, len(x)), x, scale=scale, zeros=zeros)


@dataclass(frozen=True)
class Probe:
    """`multiply(x, weight)` is tried on `rows` rows if `available`."""

    available: Callable[[], bool]
    multiply: Callable[[Tensor, Tensor], Tensor] = lambda x, weight: x.float() @ weight.float().T
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32)  # of x and weight
    rows: int = 5


def _packed(x: Tensor, weight: Tensor) -> Tensor:
    return packed_linear(pack(weight, len(x)), x)


BF16, INT8 = torch.bfloat16, torch.int8
PROBES = {
    "fast bfloat16": Probe(_fast_bfloat16),
    "one row of bfloat16": Probe(_fast_bfloat16, lambda x, weight: one_row(x, weight), (BF16, BF16), rows=1),
    "packed float32": Probe(torch.backends.mkldnn.is_available, _packed),
    "packed bfloat16": Probe(_fast_bfloat16, _packed, (BF16, BF16)),
    "packed int8": Probe(_vnni, _packed_int8, (torch.float32, INT8)),
    "int8": Probe(lambda: True, lambda x, weight: int8_linear(x, weight), (BF16, INT8), rows=2),
}


@lru_cache
def is_usable(name: str) -> bool:
    """Whether the kernel of one of PROBES can be used on this CPU with this PyTorch. A failure is logged once."""
    probe = PROBES[name]
    try:
        if not probe.available():
            return False
        x, weight = _test_values(probe.rows, 64).to(probe.dtypes[0]), _test_values(32, 64)
        weight = (weight * 127 if probe.dtypes[1] == INT8 else weight).to(probe.dtypes[1])
        exact = x.float() @ weight.float().T
        if (error := (probe.multiply(x, weight).float() - exact).norm() / exact.norm()) > TOLERANCE:
            raise ArithmeticError(f"its result is off by {error:.1%}")
    except Exception as error:  # noqa: BLE001 (private functions may be gone, or take other arguments)
        logging.getLogger(__name__).warning(
            "Janus runs more slowly: PyTorch's kernel for %s cannot be used (%s).", name, error
        )
        return False
    return True
