"""The static KV cache: allocated once for a call, filled in place. One class for CPUs, one for every other device.

A cache gives the layers their attention: `prompt(...)` while a prompt is read, `at(...)` for the tokens of a step.
Neither keeps count of what is filled. A recorded step replays its kernels and no Python, so all that changes between
steps must be in tensors: the slots to write and the mask of slots to look at.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import LlamaConfig
from ..model.llama import Attend
from .execution import Execution

if TYPE_CHECKING:
    from typing_extensions import Self

# A CPU's cache grows by this many slots.
SPAN = 64


class KVCache(Protocol):
    """Keys and values of `rows` sequences of at most `capacity` tokens, in all layers."""

    capacity: int

    def prompt(self, mask: Tensor | None = None) -> Attend:
        """Attention of a prompt's tokens among themselves, which are written to slots 0, 1, ...

        `mask`, bool [rows, 1, T, T], is True where a query may look; without it attention is causal.
        """
        ...

    def at(self, slots: Tensor, mask: Tensor) -> Attend:
        """Attention of tokens that are written to `slots`, long [rows, T], to all slots that the mask allows.

        A row's slots are consecutive. `mask`, bool [rows, 1, T, end], is True where a query may look; no slot from `end`
        on is read.
        """
        ...

    def copy_rows(self, prefix: Self, copies: int) -> None:
        """Fill the first slots from a full `prefix`, each of its rows `copies` times in succession."""
        ...


def new_cache(config: LlamaConfig, rows: int, capacity: int, execution: Execution, dtype: torch.dtype) -> KVCache:
    """The cache that suits the device. Triton's kernels read a device's layout, also where an interpreter runs them."""
    if execution.device.type == "cpu" and execution.kernels is None:
        return CPUCache(config, rows, capacity, dtype)
    return DeviceCache(config, rows, capacity, execution.device, dtype)


class DeviceCache:
    """`keys` and `values` [layers, rows, heads, capacity, head_dim], zero where nothing is written yet."""

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, device: torch.device | str, dtype: torch.dtype):
        self.capacity = capacity
        shape = (config.num_hidden_layers, rows, config.num_attention_heads, capacity, config.head_dim)
        # Zeros, because a masked slot still takes part: its weight of 0 times NaN in fresh memory would be NaN.
        self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))

    def prompt(self, mask: Tensor | None = None) -> Attend:
        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer, :, :, : k.shape[2]] = k
            self.values[layer, :, :, : v.shape[2]] = v
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)

        return attend

    def at(self, slots: Tensor, mask: Tensor) -> Attend:
        end = mask.shape[-1]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            where = slots[:, None, :, None].expand_as(k)
            keys = self.keys[layer].scatter_(2, where, k)[:, :, :end]
            values = self.values[layer].scatter_(2, where, v)[:, :, :end]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

        return attend

    def copy_rows(self, prefix: Self, copies: int) -> None:
        for mine, theirs in ((self.keys, prefix.keys), (self.values, prefix.values)):
            mine[:, :, :, : prefix.capacity] = theirs.repeat_interleave(copies, dim=1)


class CPUCache:
    """Keys in memory as [layers, rows, heads, head_dim, slots], values as [layers, rows, heads, slots, head_dim].

    1. A query's products with keys in that layout are one sweep through memory, several times as fast as
       scaled_dot_product_attention in bfloat16.
    2. A sweep covers all slots, so there are only as many as needed, rounded up to SPAN. The memory for `capacity` of
       them is allocated at the start; when slots are added, the keys and values in it are moved apart.
    """

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, dtype: torch.dtype):
        self.capacity = capacity
        self._shape = (config.num_hidden_layers, rows, config.num_attention_heads)
        self._head_dim = config.head_dim
        size = (self._shape[0], rows * config.num_attention_heads * config.head_dim * capacity)
        self._memory = tuple(torch.empty(size, dtype=dtype, device="cpu") for _ in range(2))
        self.keys, self.values = self._views(0)

    def _views(self, slots: int) -> tuple[Tensor, Tensor]:
        """The memory as keys and values [layers, rows, heads, slots, head_dim]."""
        rows, heads = self._shape[1:]
        keys, values = (memory[:, : rows * heads * slots * self._head_dim] for memory in self._memory)
        return keys.view(*self._shape, self._head_dim, slots).mT, values.view(*self._shape, slots, self._head_dim)

    def _make_room(self, slots: int) -> None:
        """Have at least `slots` slots; new ones are zero."""
        had = self.keys.shape[3]
        if slots <= had:
            return
        before = self.keys, self.values
        self.keys, self.values = self._views(min(-(-slots // SPAN) * SPAN, self.capacity))
        for old, new in zip(before, (self.keys, self.values), strict=True):
            for layer in range(len(new)):
                new[layer, :, :, :had] = old[layer].clone()  # the two overlap in memory
                new[layer, :, :, had:] = 0

    def prompt(self, mask: Tensor | None = None) -> Attend:
        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._make_room(k.shape[2])
            self.keys[layer, :, :, : k.shape[2]] = k
            self.values[layer, :, :, : v.shape[2]] = v
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)

        return attend

    def at(self, slots: Tensor, mask: Tensor) -> Attend:
        self._make_room(mask.shape[-1])
        hidden = F.pad(~mask, (0, self.keys.shape[3] - mask.shape[-1]), value=True)
        first = int(slots[0, 0])
        together = bool((slots[:, 0] == first).all())  # the usual case, and a slice is written faster than scattered

        def write(cache: Tensor, new: Tensor) -> None:
            if together:
                cache[:, :, first : first + new.shape[2]] = new
            else:
                cache.scatter_(2, slots[:, None, :, None].expand_as(new), new)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            write(self.keys[layer], k)
            write(self.values[layer], v)
            product = weighted_sums if q.shape[2] == 1 else torch.matmul
            scores = product(q * q.shape[-1] ** -0.5, self.keys[layer].mT).masked_fill_(hidden, -torch.inf)
            exact = torch.float64 if q.dtype == torch.float64 else torch.float32
            return product(scores.softmax(dim=-1, dtype=exact).to(q.dtype), self.values[layer])

        return attend

    def copy_rows(self, prefix: Self, copies: int) -> None:
        self._make_room(prefix.capacity)
        for mine, theirs in ((self.keys, prefix.keys), (self.values, prefix.values)):
            mine[:, :, :, : prefix.capacity] = theirs.repeat_interleave(copies, dim=1)


def weighted_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """The product of weights [.., 1, n] and rows [.., n, width], contiguous, on a CPU.

    As sums over the bags of an embedding table it takes at most half the time of a matrix product, which first
    rearranges the rows for more weights than one of each.
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
