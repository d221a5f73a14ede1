"""The layers that a model is built from under ComfyUI: its own, and 8-bit ones that it can offload and patch."""

from typing import Any

import comfy.float
import comfy.lora
import comfy.ops
import torch
from torch import nn
from torch.nn import functional as F

from ...janus_core.model.quantised import Layers, QuantisedLinear, dequantise, quantise, quantised_linear, scaled_linear


class Operations(comfy.ops.disable_weight_init):
    """ComfyUI's layers, made and loaded as PyTorch does it: newer versions make Linear and Embedding without weights."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        __init__ = nn.Linear.__init__
        _load_from_state_dict = nn.Module._load_from_state_dict

    class Embedding(comfy.ops.disable_weight_init.Embedding):
        __init__ = nn.Embedding.__init__
        _load_from_state_dict = nn.Module._load_from_state_dict


def unpatched_at_use(layer: Any) -> bool:
    """Whether a layer computes with its stored weights. ComfyUI patches those of offloaded layers at each use."""
    return not layer.weight_function and not layer.bias_function


class QuantisedHostedLinear(QuantisedLinear, Operations.Linear):
    """An 8-bit layer that ComfyUI can offload and patch: dequantised, patched in float32 and quantised again."""

    comfy_cast_weights = True
    forward = comfy.ops.disable_weight_init.Linear.forward

    @property
    def scale(self) -> torch.Tensor:
        """A patched weight has a scale of its own, which is replaced when ComfyUI restores the weight."""
        return getattr(self.weight, "scale", self.weight_scale)

    def forward_comfy_cast_weights(self, input: torch.Tensor) -> torch.Tensor:
        if self.weight.device == input.device and unpatched_at_use(self):
            return quantised_linear(input, self.weight, scale=self.scale, bias=self.bias)
        scale = self.scale.to(input.device)
        if self.weight_function:
            return F.linear(
                input,
                self._patched(input.device, scale).to(input.dtype),
                None if self.bias is None else self.bias.to(input),
            )
        weight, bias, stream = comfy.ops.cast_bias_weight(self, input, offloadable=True)
        out = scaled_linear(input, weight, scale=scale, bias=bias)
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return out

    def _patched(self, device: torch.device, scale: torch.Tensor) -> torch.Tensor:
        """An offloaded layer's weight with its patches. Some versions of ComfyUI would apply them to the 8-bit numbers."""
        weight = dequantise(self.weight.to(device), scale)
        for patch in self.weight_function:
            weight = comfy.lora.calculate_weight(patch.patches[patch.key], weight, patch.key)
        return weight

    def convert_weight(self, weight: torch.Tensor, **_: Any) -> torch.Tensor:
        """Called by ComfyUI before it patches: the dequantised weight."""
        return dequantise(weight, self.scale.to(weight.device))

    def set_weight(self, weight: torch.Tensor, seed: int = 0, **_: Any) -> None:
        """Called by ComfyUI with the patched weight."""
        scale = quantise(weight, self.weight.dtype)[1]
        patched: Any = nn.Parameter(
            _stochastic_round(weight / scale, self.weight.dtype, seed=seed), requires_grad=False
        )
        patched.scale = scale
        self.weight = patched


LAYERS = Layers(Operations, QuantisedHostedLinear)


def _stochastic_round(weight: torch.Tensor, dtype: torch.dtype, *, seed: int) -> torch.Tensor:
    """Stochastic rounding to 8 bits, so that changes below one 8-bit step survive on average."""
    if dtype != torch.int8:
        return comfy.float.stochastic_rounding(weight, dtype, seed=seed)
    noise = torch.Generator(weight.device).manual_seed(seed)
    chance = torch.rand(weight.shape, dtype=weight.dtype, device=weight.device, generator=noise)
    return (weight + chance).floor_().clamp_(-127, 127).to(dtype)
