"""Linear layers with weights of 8 bits: int8 with a scale for each output channel, fp8 with one for each of a file's tensors."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import cpu_ops

# The layers that hold most weights and stand rounding. Heads, projectors, embeddings, norms and the VQ do not.
QUANTISED = re.compile(r"^(language_model\.model\.layers|vision_model\.vision_tower\.blocks)\.\d+\..*")


def quantise(weight: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight [out, in] -> its 8-bit form and float32 `scale`: [out, 1] for int8, [] for fp8; weight ~ form * scale."""
    weight = weight.float()
    if kind == torch.int8:
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        return (weight / scale).round_().to(kind), scale
    scale = weight.abs().amax().clamp(min=1e-12) / torch.finfo(kind).max
    return (weight / scale).to(kind), scale


def dequantise(weight: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight that an 8-bit one stands for."""
    return weight.float() * scale


# The CPU's kernel for 8-bit weights is the fastest up to this many rows. Above, it collapses.
FEW_ROWS = 4


def needs_no_cast(kind: torch.dtype | None, compute: torch.dtype, device: torch.device, rows: int) -> bool:
    """Whether `rows` rows are multiplied with 8-bit weights without casting these to `compute` first."""
    small = kind == torch.int8 and compute == torch.bfloat16 and device.type == "cpu" and rows <= FEW_ROWS
    return small and cpu_ops.works("int8")


def quantised_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times an 8-bit weight on the same device, by the fastest way that rounds nothing further."""
    if needs_no_cast(weight.dtype, x.dtype, x.device, x.numel() // x.shape[-1]):
        y = cpu_ops.int8_linear(x.flatten(0, -2), weight).mul_(scale.flatten()).unflatten(0, x.shape[:-1])
        return y if bias is None else y + bias
    return scaled_linear(x, weight.to(x.dtype), scale, bias)


def scaled_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times an 8-bit weight already cast to x's type; the scale is applied to the product, in float32."""
    if x.dtype == torch.float16:  # sums of numbers up to 448 overflow there; a power of two loses nothing
        weight, scale = weight * 2**-14, scale * 2**14
    y = F.linear(x, weight).mul_(scale.flatten())
    return y if bias is None else y + bias


class QuantisedLinear(nn.Linear):
    """A Linear whose `weight` is int8 or fp8; `bias` keeps the compute dtype.

    `weight_scale` is float32 [out, 1] under both types: a layer packed from several tensors has the scale of each.

    A host with layers of its own derives from this class and from its own Linear, and replaces `forward`.
    """

    def __init__(self, width_in: int, width_out: int, bias: bool, kind: torch.dtype, dtype: torch.dtype):
        super().__init__(width_in, width_out, bias, device="meta", dtype=dtype)
        self.weight = nn.Parameter(torch.empty(width_out, width_in, device="meta", dtype=kind), requires_grad=False)
        scale = torch.empty(width_out, 1, device="meta", dtype=torch.float32)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return quantised_linear(input, self.weight, self.scale, self.bias)

    @property
    def scale(self) -> Tensor:
        """The scale that belongs to `weight`."""
        return self.weight_scale


def quantise_layers(model: nn.Module, kind: torch.dtype, layer: type[QuantisedLinear] = QuantisedLinear) -> None:
    """Put `layer`s of 8 bits in place of a meta-device model's big Linear layers; their weights come later."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and QUANTISED.match(name):
            parent, _, attribute = name.rpartition(".")
            small = layer(module.in_features, module.out_features, module.bias is not None, kind, module.weight.dtype)
            setattr(model.get_submodule(parent), attribute, small)
