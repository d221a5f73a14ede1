"""ImageTokens: pictures as codes of a VQ tokenizer, the value passed between nodes; and files of them."""

import hashlib
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError, InputError
from .weights.saving import save_tensors
from .weights.tensor_files import read_header

MAX_CODES = 2**24  # in a file: 29,000 pictures of Janus-Pro's
FINGERPRINT = re.compile("[0-9a-f]{16}")


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


def check_tokens(tokens: ImageTokens) -> ImageTokens:
    """Return tokens unchanged; raise InputError if their ids are not those of one or more pictures of their grid."""
    ids, (h, w) = tokens.ids, tokens.grid
    if ids.is_floating_point() or ids.ndim != 2 or min(len(ids), h, w) < 1 or ids.shape[1] != h * w:
        raise InputError(
            f"These tokens have shape {list(ids.shape)} and type {ids.dtype}, which is not whole numbers "
            f"[N, {h} x {w}]: they are damaged, so draw or encode them again."
        )
    return tokens


def picked(tokens: ImageTokens, index: int, length: int = 1) -> ImageTokens:
    """The tokens of `length` pictures from `index`, or as many as there are. Raises InputError if none is there."""
    count = len(check_tokens(tokens))
    if not 0 <= index < count:
        raise InputError(f"The index is {index} and the tokens are of {count} pictures: give 0 to {count - 1}.")
    if length < 1:
        raise InputError(f"The length is {length}: pick the tokens of at least one picture.")
    return replace(tokens, ids=tokens.ids[index : index + length])


def joined(first: ImageTokens, second: ImageTokens) -> ImageTokens:
    """The tokens of both, on the device of the first. Raises InputError for those of two codebooks or two grids."""
    for tokens in (first, second):
        check_tokens(tokens)
    if first.codebook != second.codebook:
        raise InputError("These tokens are of two models' codebooks: join those that one model drew or encoded.")
    if first.grid != second.grid:
        (h, w), (other_h, other_w) = first.grid, second.grid
        raise InputError(
            f"These tokens are of pictures of two sizes, {w} x {h} and {other_w} x {other_h} tokens: encode them with the "
            "same fit, or decode them apart."
        )
    return replace(first, ids=torch.cat((first.ids, second.ids.to(first.ids))))


def write_tokens(tokens: ImageTokens, path: Path) -> None:
    """Write tokens as a safetensors file: `ids`, int64 [N, h, w], and the codebook's fingerprint as metadata.

    The file is written in full or not at all. Raises InputError for damaged tokens, and if it cannot be written.
    """
    ids = check_tokens(tokens).ids.unflatten(1, tokens.grid).to("cpu", torch.int64)
    save_tensors({"ids": ids}, path, metadata={"codebook": tokens.codebook})


def read_tokens(path: Path) -> ImageTokens:
    """Read a file of `write_tokens`. Raises CheckpointError for any other, and for a damaged one."""
    header = read_header(path)
    entry, codebook = header.entries.get("ids"), header.metadata.get("codebook", "")
    if (
        entry is None
        or len(header.entries) > 1
        or (entry.dtype, len(entry.shape)) != (torch.int64, 3)
        or not FINGERPRINT.fullmatch(codebook)
    ):
        raise CheckpointError(f"{path} holds no picture tokens: choose a file that Save Tokens wrote.")
    if not 0 < (codes := math.prod(entry.shape)) <= MAX_CODES:
        raise CheckpointError(f"{path} holds {codes} tokens and may hold 1 to {MAX_CODES}: choose another file.")
    try:
        with path.open("rb") as file:
            file.seek(entry.start)
            data = bytearray(file.read(entry.end - entry.start))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}): check the disk and who may read it.") from error
    if len(data) != entry.end - entry.start:
        raise CheckpointError(f"{path} was cut short while it was read: save the tokens again.")
    count, h, w = entry.shape
    return ImageTokens(torch.frombuffer(data, dtype=torch.int64).view(count, h * w), (h, w), codebook)
