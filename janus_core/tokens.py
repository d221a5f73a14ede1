"""ImageTokens: pictures as codes of a VQ tokenizer, the value passed between nodes."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageTokens:
    """`ids` long [N, h * w] in row-major order, `grid` (h, w), `codebook` the fingerprint of the codebook they index."""

    ids: Tensor
    grid: tuple[int, int]
    codebook: str

    def __len__(self) -> int:
        return self.ids.shape[0]


def fingerprint(codebook: Tensor) -> str:
    """A hash of a codebook [size, dim] that is the same in every dtype: it covers the shape and the signs."""
    signs = torch.signbit(codebook.detach().cpu().float()).to(torch.uint8)
    return hashlib.sha256(repr(tuple(signs.shape)).encode() + signs.numpy().tobytes()).hexdigest()[:16]
