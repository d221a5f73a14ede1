"""Weights that files hold apart and the model as one, for a decode step to read in one product: q, k, v and gate, up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The model's layer -> the layers it is in DeepSeek's files, stacked along dim 0 in equal parts.
PACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_LAYER = re.compile(rf"(?<=\.)({'|'.join(PACKED)})(?=\.)")


class Place(NamedTuple):
    """Where a file's tensor lies in the model: under `key`, whole, or only `rows` (start, length) of it."""

    key: str
    rows: tuple[int, int] | None

    def of(self, tensor: Tensor) -> Tensor:
        """The file's part, a view, of the model's `tensor`."""
        return tensor if self.rows is None else tensor.narrow(0, *self.rows)


def places(state: Mapping[str, Tensor]) -> dict[str, Place]:
    """DeepSeek's name of every tensor, in order -> its place among the model's tensors `state`."""
    found = {}
    for key, tensor in state.items():
        layer = _LAYER.search(key)
        if layer is None:
            found[key] = Place(key, None)
            continue
        parts = PACKED[layer[0]]
        size = len(tensor) // len(parts)
        for i, part in enumerate(parts):
            found[f"{key[: layer.start()]}{part}{key[layer.end() :]}"] = Place(key, (i * size, size))
    return found


def joined(parts: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Equal parts stacked along dim 0, on the device: where they lie end to end in one mapped file, the file itself."""
    first, size = parts[0], parts[0].numel()
    if len(parts) == 1:
        return first.to(device)
    shape = (len(parts) * len(first), *first.shape[1:])
    storage = first.untyped_storage().data_ptr()
    starts = [part.storage_offset() for part in parts if part.untyped_storage().data_ptr() == storage]
    if first.is_contiguous() and starts == [first.storage_offset() + i * size for i in range(len(parts))]:
        return first.as_strided(shape, first.stride()).to(device)
    whole = torch.empty(shape, dtype=first.dtype, device=device)
    for part, piece in zip(parts, whole.chunk(len(parts)), strict=True):
        piece.copy_(part)
    return whole


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors under DeepSeek's names; those of packed layers are views of their rows."""
    return {name: place.of(state[place.key]) for name, place in places(state).items()}
