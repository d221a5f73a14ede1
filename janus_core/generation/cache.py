"""The KV cache of one call, with one class for CPUs and one for every other device.

A cache gives the layers their attention: `prompt(...)` while a prompt is read, `step(...)` for the tokens of a step. On a
device it keeps no count of what is filled: a recorded step replays kernels and no Python, so what changes from step to
step must be in tensors.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..config import LlamaConfig
from ..model.llama import Attend
from .execution import Execution

# Caches have a multiple of this many slots, and a CPU's grows by it.
SLOT_BLOCK = 64


def whole_blocks(slots: int) -> int:
    """`slots` rounded up to SLOT_BLOCK."""
    return -(-slots // SLOT_BLOCK) * SLOT_BLOCK


class KVCache:
    """Keys and values [layers, rows, heads, slots, head_dim] of `rows` sequences of at most `capacity` tokens.

    `capacity` is rounded up to a multiple of SLOT_BLOCK.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, config: LlamaConfig, rows: int, capacity: int):
        self.capacity = whole_blocks(capacity)
        self.shape = (config.num_hidden_layers, rows, config.num_attention_heads, self.capacity, config.head_dim)

    def prompt(self, mask: Tensor | None = None) -> Attend:
        """Attention of a prompt's tokens among themselves, which are written to slots 0, 1, ...

        `mask`, bool [rows, 1, T, T], is True where a query may look; without it attention is causal.
        """
        bias = None if mask is None else additive(mask, self.keys.dtype)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self._make_room(k.shape[2])
            self.keys[layer, :, :, : k.shape[2]] = k
            self.values[layer, :, :, : v.shape[2]] = v
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None)

        return attend

    def step(self, slots: Tensor, end: int, visible: Tensor | None = None) -> Attend:
        """Attention of tokens that are written to `slots`, long [rows, T], to the slots up to their own.

        A row's slots are consecutive and below `end`, from where on no slot is read. `visible`, bool
        [rows, 1, 1, capacity], is False on slots that are never looked at.
        """
        raise NotImplementedError

    def copy_rows(self, other: KVCache, rows: Tensor) -> None:
        """Fill the first slots from those of `other`: row i from its row `rows[i]`, long [rows]."""
        slots = other.keys.shape[3]
        self._make_room(slots)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, :, :, :slots] = theirs.index_select(1, rows)

    def put_rows(self, rows: list[int], prefix: KVCache) -> None:
        """Fill the first slots of each of `rows` from those of the rows of `prefix`, in their order."""
        slots = prefix.keys.shape[3]
        self._make_room(slots)
        for mine, theirs in ((self.keys, prefix.keys), (self.values, prefix.values)):
            for i, row in enumerate(rows):
                mine[:, row, :, :slots] = theirs[:, i]

    def _make_room(self, slots: int) -> None:
        """Have at least `slots` slots."""


def new_cache(config: LlamaConfig, rows: int, capacity: int, execution: Execution, dtype: torch.dtype) -> KVCache:
    """The cache that suits the device. Triton's kernels read a device's layout, also where an interpreter runs them."""
    if execution.device.type == "cpu" and execution.triton is None:
        return CPUCache(config, rows, capacity, dtype)
    return DeviceCache(config, rows, capacity, execution.device, dtype)


def attention_kernels(device: torch.device) -> AbstractContextManager[object]:
    """PyTorch's kernels for attention on CUDA, without cuDNN's.

    cuDNN plans for each new length, which takes 23 to 37 ms on Hopper, and is wrong on some Blackwell cards
    (pytorch#193893).
    """
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def looks(slots: Tensor, end: int, visible: Tensor | None) -> Tensor:
    """Where the tokens of a step look, bool [rows, 1, T, end]: see `KVCache.step`."""
    mask = torch.arange(end, device=slots.device) <= slots[:, None, :, None]
    return mask if visible is None else mask & visible[..., :end]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers that are added to the scores.

    From a bool mask, and from one whose rows are not aligned in memory, attention would compute this in each layer.
    """
    *lead, length = mask.shape
    bias = torch.full((*lead, whole_blocks(length)), -torch.inf, dtype=dtype, device=mask.device)
    return bias[..., :length].masked_fill_(mask, 0)


class DeviceCache(KVCache):
    """All slots are there from the start, and zero until they are written."""

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, device: torch.device | str, dtype: torch.dtype):
        super().__init__(config, rows, capacity)
        # Zeros, because a masked slot still takes part: its weight of 0 times NaN in uninitialised memory would be NaN.
        self.keys, self.values = (torch.zeros(self.shape, device=device, dtype=dtype) for _ in range(2))

    def step(self, slots: Tensor, end: int, visible: Tensor | None = None) -> Attend:
        bias, where = additive(looks(slots, end, visible), self.keys.dtype), slots[:, None, :, None]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys = self.keys[layer].scatter_(2, where.expand_as(k), k)[:, :, :end]
            values = self.values[layer].scatter_(2, where.expand_as(v), v)[:, :, :end]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)

        return attend


class CPUCache(KVCache):
    """Keys in memory as [layers, rows, heads, head_dim, slots], values as [layers, rows, heads, slots, head_dim].

    1. In this layout a query's dot products with all keys are one sequential read, several times as fast as
       scaled_dot_product_attention in bfloat16.
    2. The read covers every slot, so slots are added as needed, SLOT_BLOCK at a time. Memory for `capacity` of them is
       allocated once; adding slots moves the contents to a wider stride.
    """

    def __init__(self, config: LlamaConfig, rows: int, capacity: int, dtype: torch.dtype):
        super().__init__(config, rows, capacity)
        size = (self.shape[0], math.prod(self.shape[1:]))
        self._memory = tuple(torch.empty(size, dtype=dtype, device="cpu") for _ in range(2))
        self.keys, self.values = self._views(0)

    def _views(self, slots: int) -> tuple[Tensor, Tensor]:
        """The memory as keys and values of that many slots."""
        *lead, _, head_dim = self.shape
        keys, values = (memory[:, : math.prod(lead[1:]) * slots * head_dim] for memory in self._memory)
        return keys.view(*lead, head_dim, slots).mT, values.view(*lead, slots, head_dim)

    def _make_room(self, slots: int) -> None:
        """Grow to at least `slots` slots, zero-filled."""
        had = self.keys.shape[3]
        if slots <= had:
            return
        before = self.keys, self.values
        self.keys, self.values = self._views(whole_blocks(slots))
        for old, new in zip(before, (self.keys, self.values), strict=True):
            for layer in range(len(new)):
                new[layer, :, :, :had] = old[layer].clone()  # the two overlap in memory
                new[layer, :, :, had:] = 0

    def step(self, slots: Tensor, end: int, visible: Tensor | None = None) -> Attend:
        self._make_room(end)
        start, tokens = int(slots[0, 0]), slots.shape[1]
        aligned = bool((slots[:, 0] == start).all())  # the usual case, for which slices are enough
        masked = None
        if not aligned or tokens > 1 or visible is not None:
            masked = F.pad(~looks(slots, end, visible), (0, self.keys.shape[3] - end), value=True)

        def write(cache: Tensor, new: Tensor) -> None:
            if aligned:
                cache[:, :, start : start + tokens] = new
            else:
                cache.scatter_(2, slots[:, None, :, None].expand_as(new), new)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            write(self.keys[layer], k)
            write(self.values[layer], v)
            product = weighted_sums if tokens == 1 else torch.matmul
            scores = product(q * q.shape[-1] ** -0.5, self.keys[layer].mT)
            if masked is None:
                scores[..., start + 1 :] = -torch.inf
            else:
                scores.masked_fill_(masked, -torch.inf)
            exact = torch.float64 if q.dtype == torch.float64 else torch.float32
            return product(scores.softmax(dim=-1, dtype=exact).to(q.dtype), self.values[layer])

        return attend


def weighted_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """The product of weights [.., 1, n] and rows [.., n, width], contiguous, on a CPU.

    `embedding_bag` takes at most half the time of a matrix product here: for one weight vector each, that copies the rows
    first.
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
