"""ImageTokens: pictures as codes of a VQ tokenizer, the value that travels between nodes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageTokens:
    """`ids` long [N, h * w] in row-major order, `grid` (h, w), `codebook` the fingerprint of what they index."""

    ids: Tensor
    grid: tuple[int, int]
    codebook: str

    def __len__(self) -> int:
        return self.ids.shape[0]


def fingerprint(codebook: Tensor) -> str:
    """A name for a codebook [size, dim] that stays the same in every dtype: a hash of its size and its signs."""
    signs = torch.signbit(codebook.detach().cpu().float()).to(torch.uint8)
    return hashlib.sha256(repr(tuple(signs.shape)).encode() + signs.numpy().tobytes()).hexdigest()[:16]
