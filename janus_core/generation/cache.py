"""The static KV cache: allocated once for a call, filled in place, read over its live length only."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import LlamaConfig


class StaticCache:
    """Keys and values [layers, rows, heads, capacity, head_dim]; the first `length` positions are filled."""

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, device: torch.device | str, dtype: torch.dtype):
        shape = (config.num_hidden_layers, rows, config.num_attention_heads, capacity, config.head_dim)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new k and v [rows, heads, T, head_dim] after `length`; return all of that layer's."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def copy_rows(self, prefix: StaticCache, copies: int) -> None:
        """Start from `prefix`, each of its rows repeated `copies` times in a run."""
        self.length = prefix.length
        for mine, theirs in ((self.keys, prefix.keys), (self.values, prefix.values)):
            mine[:, :, :, : self.length] = theirs[:, :, :, : self.length].repeat_interleave(copies, dim=1)
