"""How a loaded model computes: on which device, and by which kernels."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Execution:
    """How a Janus computes; fixed when it is created.

    `graphs` allows CUDA graphs. `kernels` is the module `triton_kernels`, or None for PyTorch's own kernels. With "auto",
    `self_check.decide` chooses on the device, and what runs undecided is plain.
    `unpatched(layer)` is whether a layer uses its stored weights, rather than weights that a host patches at each use.
    """

    device: torch.device
    graphs: bool = True
    kernels: ModuleType | Literal["auto"] | None = "auto"
    unpatched: Callable[[nn.Module], bool] = lambda layer: True

    @property
    def triton(self) -> ModuleType | None:
        """The module of Triton kernels to run."""
        return self.kernels if isinstance(self.kernels, ModuleType) else None

    def weights_ready(self, parts: Iterable[nn.Module]) -> bool:
        """Whether all weights of `parts` are on the device and used unpatched."""
        layers = [layer for part in parts for layer in part.modules()]
        weights = [(layer, weight) for layer in layers for weight in layer.parameters(recurse=False)]
        devices = {weight.device for _, weight in weights}
        on_device = len(devices) == 1 and devices.pop().type == self.device.type
        return on_device and all(self.unpatched(layer) for layer, _ in weights)

    def uses_graphs(self, parts: Iterable[nn.Module]) -> bool:
        """Whether a step that reads `parts` runs as CUDA graphs."""
        return self.graphs and self.device.type == "cuda" and self.weights_ready(parts)
