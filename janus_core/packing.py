"""Weights that files hold apart and the model as one, for a decode step to read in one product: q, k, v and gate, up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

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


def unpacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors under DeepSeek's names; those of packed layers are views of their rows."""
    return {name: place.of(state[place.key]) for name, place in places(state).items()}
