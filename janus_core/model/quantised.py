"""Linear layers with weights of 8 bits: int8 with a scale for each output channel, fp8 with one for each tensor."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


def scaled_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times an 8-bit weight already cast to x's type; the scale is applied to the product, in float32."""
    if x.dtype == torch.float16:  # sums of numbers up to 448 overflow there; a power of two loses nothing
        weight, scale = weight * 2**-14, scale * 2**14
    y = (F.linear(x, weight) * scale.flatten()).to(x.dtype)
    return y if bias is None else y + bias


class QuantisedLinear(nn.Linear):
    """A Linear whose `weight` is int8 or fp8 and whose `weight_scale` is float32; `bias` keeps the compute dtype.

    A host with layers of its own derives from this class and from its own Linear, and replaces `forward`.
    """

    def __init__(self, width_in: int, width_out: int, bias: bool, kind: torch.dtype, dtype: torch.dtype):
        super().__init__(width_in, width_out, bias, device="meta", dtype=dtype)
        self.weight = nn.Parameter(torch.empty(width_out, width_in, device="meta", dtype=kind), requires_grad=False)
        shape = (width_out, 1) if kind == torch.int8 else ()
        self.weight_scale = nn.Parameter(torch.empty(shape, device="meta", dtype=torch.float32), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        return scaled_linear(input, self.weight.to(input.dtype), self.weight_scale, self.bias)


def quantise_layers(model: nn.Module, kind: torch.dtype, layer: type[QuantisedLinear] = QuantisedLinear) -> None:
    """Put `layer`s of 8 bits in place of a meta-device model's big Linear layers; their weights come later."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and QUANTISED.match(name):
            parent, _, attribute = name.rpartition(".")
            small = layer(module.in_features, module.out_features, module.bias is not None, kind, module.weight.dtype)
            setattr(model.get_submodule(parent), attribute, small)
