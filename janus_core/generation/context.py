"""The tokens that the rows of a call have read so far, and the two ways to read more: a prompt, and a step's tokens."""

import torch
from torch import Tensor

from ..model.llama import Llama, rope_table
from .cache import KVCache, new_cache
from .execution import Execution


class Context:
    """The KV cache of `rows` sequences, and the rotary angles of all its positions. Made for one call."""

    def __init__(self, llama: Llama, rows: int, capacity: int, execution: Execution, dtype: torch.dtype):
        self.llama, self.execution = llama, execution
        usable = execution.triton and execution.weights_ready([llama.layers, llama.norm])
        self.kernels = execution.triton if usable else None
        self.cache: KVCache = new_cache(llama.config, rows, capacity, execution, dtype)
        self.capacity = self.cache.capacity
        self.positions = torch.arange(self.capacity, device=execution.device)
        cos, sin = rope_table(self.positions[None], llama.config.head_dim, llama.config.rope_theta, dtype)
        self.cos, self.sin = cos[0, 0], sin[0, 0]  # [capacity, head_dim]

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with some of the sequences, long [rows], in their order there."""
        before = self.cache
        self.cache = new_cache(self.llama.config, len(rows), self.capacity, self.execution, before.keys.dtype)
        self.cache.copy_rows(before, rows)

    def read(self, embeds: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """A prompt: embeddings [rows, T, D] -> hidden states [rows, T, D].

        Its tokens are written to slots 0..T-1. `positions`, long [rows, T], default to the same. `mask`, bool
        [rows, 1, T, T], is True where a query may look, and defaults to causal.
        """
        if positions is None:
            positions = self.positions[None, : embeds.shape[1]]
        return self.llama(embeds, self._angles(positions), self.cache.prompt(mask))

    def step(
        self, embeds: Tensor, slots: Tensor, end: int, *, positions: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """A step's tokens: embeddings [rows, T, D] -> hidden states [rows, T, D].

        They are written to `slots`, long [rows, T], consecutive in each row, and look at the slots up to their own, of
        which `visible`, bool [rows, 1, 1, capacity], may hide some. No slot from `end` on is read. `positions`, long
        [rows, T], default to `slots`.
        """
        angles = self._angles(slots if positions is None else positions)
        if self.kernels and visible is None:
            return self.kernels.decode(self.llama, embeds, angles, slots, end, self.cache)
        return self.llama(embeds, angles, self.cache.step(slots, end, visible))

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [rows, 1, T, head_dim]."""
        return self.cos[positions][:, None], self.sin[positions][:, None]
