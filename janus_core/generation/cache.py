"""The static KV cache: allocated once for a call, filled in place, read over its live length only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import LlamaConfig


class StaticCache:
    """Keys and values [layers, rows, heads, capacity, head_dim]; the first `length` slots are filled.

    On a CPU a key lies in memory across its slots, [.., head_dim, capacity], because a query's product with them is
    then one sweep through memory, several times as fast as scaled_dot_product_attention in bfloat16.
    """

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, device: torch.device | str, dtype: torch.dtype):
        lead = (config.num_hidden_layers, rows, config.num_attention_heads)
        self.on_cpu = torch.device(device).type == "cpu"
        if self.on_cpu:
            self.keys = torch.empty(*lead, config.head_dim, capacity, device=device, dtype=dtype).transpose(-1, -2)
        else:
            self.keys = torch.empty(*lead, capacity, config.head_dim, device=device, dtype=dtype)
        self.values = torch.empty(*lead, capacity, config.head_dim, device=device, dtype=dtype)
        self.length = 0
        self.slots: Tensor | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Write a layer's new k and v [rows, heads, T, head_dim] and attend q to all up to the last slot written.

        They go after `length`, or, while `slots` [rows, T] is set, where it says; a mask then keeps q from the rest.
        """
        end = self.length + k.shape[2]
        if self.slots is None:
            self.keys[layer, :, :, self.length : end] = k
            self.values[layer, :, :, self.length : end] = v
        elif mask is None:
            raise ValueError("slots need a mask, which says how far to look")
        else:
            where = self.slots[:, None, :, None].expand_as(k)
            self.keys[layer].scatter_(2, where, k)
            self.values[layer].scatter_(2, where, v)
            end = mask.shape[-1]
        if self.length == 0:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        keys, values = self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        if not self.on_cpu:
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        scores = (q * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        exact = torch.float64 if q.dtype == torch.float64 else torch.float32
        return scores.softmax(dim=-1, dtype=exact).to(q.dtype) @ values

    def blank(self) -> None:
        """Zero the free slots, for rows that look past their own: a NaN left in memory stays one under a mask."""
        for mine in (self.keys, self.values):
            mine[:, :, :, self.length :] = 0

    def copy_rows(self, prefix: StaticCache, copies: int) -> None:
        """Start from `prefix`, each of its rows repeated `copies` times in a run."""
        self.length = prefix.length
        for mine, theirs in ((self.keys, prefix.keys), (self.values, prefix.values)):
            mine[:, :, :, : self.length] = theirs[:, :, :, : self.length].repeat_interleave(copies, dim=1)
