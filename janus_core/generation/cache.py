"""The static KV cache: allocated once for a call, filled in place, read hardly further than it is filled."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import LlamaConfig

# On a CPU slots are added so many at once.
SPAN = 64


class StaticCache:
    """Keys and values [layers, rows, heads, slots, head_dim]; the first `length` slots are filled, the rest zero.

    On a CPU a key lies in memory across the slots, [.., head_dim, slots], because a query's product with them is then
    one sweep through memory, several times as fast as scaled_dot_product_attention in bfloat16. A sweep goes over all
    slots, so there are no more of them than the next multiple of SPAN: as they become more, what is held moves further
    apart within the memory that was taken for `capacity` of them.
    """

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, device: torch.device | str, dtype: torch.dtype):
        self.layers, self.capacity = config.num_hidden_layers, capacity
        self.lead, self.head_dim = (rows, config.num_attention_heads), config.head_dim
        self.on_cpu = torch.device(device).type == "cpu"
        size = (self.layers, rows * config.num_attention_heads * config.head_dim * capacity)
        self._memory = tuple(torch.empty(size, device=device, dtype=dtype) for _ in range(2))
        self.keys, self.values = self._views(0)
        self.length = 0
        self.slots: Tensor | None = None
        self.make_room(0 if self.on_cpu else capacity)

    def _views(self, slots: int) -> tuple[Tensor, Tensor]:
        """The memory seen as keys and values of so many slots."""
        lead, across = (self.layers, *self.lead), (slots, self.head_dim)
        keys, values = (memory[:, : math.prod(self.lead) * math.prod(across)] for memory in self._memory)
        keys = keys.view(*lead, *across[::-1]).mT if self.on_cpu else keys.view(*lead, *across)
        return keys, values.view(*lead, *across)

    def make_room(self, slots: int) -> None:
        """See to it that there are at least `slots` slots."""
        had = self.keys.shape[3]
        if slots <= had:
            return
        before = self.keys, self.values
        self.keys, self.values = self._views(min(-(-slots // SPAN) * SPAN, self.capacity))
        for old, new in zip(before, (self.keys, self.values), strict=True):
            for layer in range(self.layers):
                new[layer, :, :, :had] = old[layer].clone()
                new[layer, :, :, had:] = 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Write a layer's new k and v [rows, heads, T, head_dim] and attend q to all up to the last slot written.

        They go after `length`, or, while `slots` [rows, T] is set, where it says; a mask then keeps q from the rest.
        """
        if self.slots is None:
            end = self.length + k.shape[2]
            self.make_room(end)
            self.keys[layer, :, :, self.length : end] = k
            self.values[layer, :, :, self.length : end] = v
        elif mask is None:
            raise ValueError("slots need a mask, which says how far to look")
        else:
            end = mask.shape[-1]
            self.make_room(end)
            where = self.slots[:, None, :, None].expand_as(k)
            self.keys[layer].scatter_(2, where, k)
            self.values[layer].scatter_(2, where, v)
        if self.length == 0:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        if not self.on_cpu:
            keys, values = self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        product = weighted_sums if q.shape[2] == 1 else torch.matmul
        scores = product(q * q.shape[-1] ** -0.5, self.keys[layer].mT)
        scores[..., end:] = -torch.inf
        if mask is not None:
            scores[..., :end].masked_fill_(~mask, -torch.inf)
        exact = torch.float64 if q.dtype == torch.float64 else torch.float32
        return product(scores.softmax(dim=-1, dtype=exact).to(q.dtype), self.values[layer])

    def copy_rows(self, prefix: StaticCache, copies: int) -> None:
        """Start from `prefix`, each of its rows repeated `copies` times in a run."""
        self.length = prefix.length
        self.make_room(self.length)
        for mine, theirs in ((self.keys, prefix.keys), (self.values, prefix.values)):
            mine[:, :, :, : self.length] = theirs[:, :, :, : self.length].repeat_interleave(copies, dim=1)


def weighted_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """The product of weights [.., 1, n] and rows [.., n, width] that lie end to end, on a CPU.

    As sums over bags of an embedding table it takes half the time or less of a matrix product, which first rearranges
    the rows for more weights than one of each.
    """
    n, width = rows.shape[-2:]
    indices, starts = _bags(rows.shape[:-2].numel(), n)
    sums = F.embedding_bag(indices, rows.view(-1, width), starts, mode="sum", per_sample_weights=weights.flatten())
    return sums.view(*weights.shape[:-1], width)


@lru_cache(maxsize=8)
def _bags(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Indices of all rows of a table, `size` to a bag, and where each bag starts."""
    everything = torch.arange(count * size, dtype=torch.int32, device="cpu")
    return everything, everything[::size].contiguous()
