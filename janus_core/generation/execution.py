"""How a loaded model computes: on which device, and by which kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import nn

Unpatched = Callable[[nn.Module], bool]


def never_patched(layer: nn.Module) -> bool:
    """For models that no host changes: every layer computes with its stored weights."""
    return True


@dataclass(frozen=True)
class Execution:
    """Given once, when a Janus is made.

    `graphs` allows CUDA graphs. `kernels` is the module `triton_kernels`, or None for PyTorch's own kernels.
    `unpatched` says of a layer whether it computes with its stored weights; a host may change others at each use.
    """

    device: torch.device
    graphs: bool = True
    kernels: ModuleType | None = None
    unpatched: Unpatched = never_patched

    def in_place(self, parts: Iterable[nn.Module]) -> bool:
        """Whether all weights of `parts` are on the device, and used as they are stored there."""
        layers = [layer for part in parts for layer in part.modules()]
        weights = [(layer, weight) for layer in layers for weight in layer.parameters(recurse=False)]
        if any(weight.device.type != self.device.type for _, weight in weights):
            return False
        one_device = len({weight.device for _, weight in weights}) == 1
        return one_device and all(self.unpatched(layer) for layer, _ in weights)

    def records(self, parts: Iterable[nn.Module]) -> bool:
        """Whether a step that reads `parts` runs as CUDA graphs."""
        return self.graphs and self.device.type == "cuda" and self.in_place(parts)
