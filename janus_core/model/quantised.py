"""The layer classes a model is built from, and Linear layers with 8-bit weights.

An int8 weight has one scale for each output channel, an fp8 weight one for the whole tensor of the checkpoint.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import cpu_ops

# The layers that hold most weights and tolerate rounding. Heads, projectors, embeddings, norms and the VQ do not.
QUANTISED = re.compile(r"^(language_model\.model\.layers|vision_model\.vision_tower\.blocks)\.\d+\..*")
# The CPU kernel for int8 weights is the fastest up to this many rows, and slower than a cast above it.
MAX_INT8_KERNEL_ROWS = 4


def quantise(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight [out, in] -> its 8-bit form and float32 `scale`: [out, 1] for int8, [] for fp8; weight ~ form * scale."""
    weight = weight.float()
    if dtype == torch.int8:
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        return (weight / scale).round_().to(dtype), scale
    scale = weight.abs().amax().clamp(min=1e-12) / torch.finfo(dtype).max
    return (weight / scale).to(dtype), scale


def dequantise(weight: Tensor, scale: Tensor) -> Tensor:
    """An 8-bit weight [out, in] and its scale -> the float32 weight they encode."""
    return weight.float() * scale


def needs_no_cast(dtype: torch.dtype | None, *, compute: torch.dtype, device: torch.device, rows: int) -> bool:
    """Whether 8-bit weights can be multiplied with `rows` rows directly, without a cast to `compute`."""
    on_cpu = dtype == torch.int8 and compute == torch.bfloat16 and device.type == "cpu"
    return on_cpu and rows <= MAX_INT8_KERNEL_ROWS and cpu_ops.is_usable("int8")


def quantised_linear(x: Tensor, weight: Tensor, *, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times an 8-bit weight on the same device, by the fastest kernel that adds no rounding."""
    if needs_no_cast(weight.dtype, compute=x.dtype, device=x.device, rows=x.numel() // x.shape[-1]):
        y = cpu_ops.int8_linear(x.flatten(0, -2), weight).mul_(scale.flatten()).unflatten(0, x.shape[:-1])
        return y if bias is None else y + bias
    return scaled_linear(x, weight.to(x.dtype), scale=scale, bias=bias)


def scaled_linear(x: Tensor, weight: Tensor, *, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., in] times an 8-bit weight already cast to x's type; the scale is applied to the product, in float32."""
    # 1. float16 ends at 65504: a long sum of x times unscaled weights, up to 127 in int8 and 448 in fp8, exceeds it.
    # 2. So the weight gets smaller by a power of two, and the scale larger by the same. Both are exact: the smallest
    #    step of fp8, 2**-9, becomes 2**-23, which float16 holds as a subnormal number.
    if x.dtype == torch.float16:
        weight, scale = weight * 2**-14, scale * 2**14
    y = F.linear(x, weight).mul_(scale.flatten())
    return y if bias is None else y + bias


class _NoReset:
    def reset_parameters(self) -> None:
        """Draw no initial weights: see `Uninitialised`."""


class QuantisedLinear(_NoReset, nn.Linear):
    """A Linear whose `weight` is int8 or fp8; `bias` keeps the compute dtype. Made on the meta device, filled later.

    `weight_scale` is float32 [out, 1] for both types: a layer fused from several tensors has the scale of each.
    A host with its own layers derives from this class and its own Linear, and replaces `forward`.
    """

    def __init__(self, width_in: int, width_out: int, *, bias: bool, dtype: torch.dtype, compute: torch.dtype):
        super().__init__(width_in, width_out, bias, device="meta", dtype=compute)
        self.weight = nn.Parameter(torch.empty(width_out, width_in, device="meta", dtype=dtype), requires_grad=False)
        self.weight_scale = nn.Parameter(
            torch.empty(width_out, 1, device="meta", dtype=torch.float32), requires_grad=False
        )

    def forward(self, input: Tensor) -> Tensor:
        return quantised_linear(input, self.weight, scale=self.scale, bias=self.bias)

    @property
    def scale(self) -> Tensor:
        """The scale that belongs to `weight`."""
        return self.weight_scale


class Uninitialised:
    """The layers of torch.nn without their random initial weights, for models that a checkpoint fills.

    Drawing random numbers imports torch's compiler where the tensor is on the meta device, which takes a second.
    """

    class Linear(_NoReset, nn.Linear): ...

    class Embedding(_NoReset, nn.Embedding): ...

    class Conv2d(_NoReset, nn.Conv2d): ...

    class LayerNorm(_NoReset, nn.LayerNorm): ...

    class RMSNorm(_NoReset, nn.RMSNorm): ...

    class GroupNorm(_NoReset, nn.GroupNorm): ...


@dataclass(frozen=True)
class Layers:
    """The layer classes a model is built from.

    `operations` is a namespace with torch.nn's Linear, Embedding, Conv2d and norms, or a host's own in their place;
    `quantised` is the 8-bit Linear.
    """

    operations: Any = Uninitialised
    quantised: type[QuantisedLinear] = QuantisedLinear


DEFAULT_LAYERS = Layers()


def quantise_layers(model: nn.Module, dtype: torch.dtype, layer: type[QuantisedLinear] = QuantisedLinear) -> None:
    """Replace a meta-device model's big Linear layers with 8-bit ones, whose weights are to be loaded."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and QUANTISED.match(name):
            parent, _, attribute = name.rpartition(".")
            setattr(
                model.get_submodule(parent),
                attribute,
                layer(
                    module.in_features,
                    module.out_features,
                    bias=module.bias is not None,
                    dtype=dtype,
                    compute=module.weight.dtype,
                ),
            )
