"""Open weight files, safetensors or PyTorch's pickles, as tensors that are read from disk when they are used.

A safetensors file is mapped read-only, so that it may be larger than memory and swap together: a private mapping that
could be written to would count in full. Writing into such a tensor would end the process, so whoever changes weights
in place copies them first.
"""

import json
import math
import mmap
import pickle  # nosec B403 # for the name of its error: nothing is read with it
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..collector import collector_paused
from ..errors import CheckpointError, shown
from ..precision import SAFETENSORS

MAX_HEADER = 100_000_000  # bytes of a safetensors file's header, as in its format
MAX_TENSORS = 100_000  # in a file; Janus-Pro-7B has 1,000
MAX_DIMENSIONS = 8  # of a tensor; a convolution's weight has 4
MAX_PICKLE = 32_000_000  # bytes that describe a pickle's tensors; Janus-Pro-7B's has 200,000
# What a safetensors file's header calls its types.
TYPES = {name: dtype for dtype, name in SAFETENSORS.items()} | {
    "F64": torch.float64,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """A tensor in a safetensors file: `start` and `end` are bytes from the file's start."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: its tensors by name, and its metadata."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def open_weights(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, memory-mapped and not to be written to.

    A file that begins as a safetensors file is opened as one, whatever its suffix. Raises CheckpointError for a file that
    is damaged, or a pickle that contains more than tensors.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        weights |= _open_safetensors(path) if _is_safetensors(path) else _open_pickle(path)
    return weights


def read_header(path: Path) -> Header:
    """Read and check a safetensors file's header, and no tensor. Raises CheckpointError when anything in it is wrong."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_HEADER):
                raise ValueError(f"its header has {length} bytes, and the file {size}")
            text = file.read(length)
            if text.count(b'"data_offsets"') > MAX_TENSORS:  # parsing a million would take half a minute
                raise ValueError(f"it lists more than {MAX_TENSORS} tensors")
            with collector_paused():
                raw = json.loads(text)
        if not isinstance(raw, dict):
            raise TypeError("its header is no JSON object")
        metadata = raw.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise TypeError("its metadata is no table of texts")
        if len(raw) > MAX_TENSORS:
            raise ValueError(f"it lists more than {MAX_TENSORS} tensors")
        entries = {name: _entry(name, value, 8 + length) for name, value in raw.items()}
        _check_places(list(entries.values()), 8 + length, size)
    except (KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({shown(error)}): it was cut short or damaged, so fetch it again."
        ) from error
    return Header(entries, metadata)


def _entry(name: str, value: Any, base: int) -> Entry:
    shape, (start, end) = value["shape"], value["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"the shape or place of {shown(name, 100)} is damaged")
    if value["dtype"] not in TYPES:
        raise ValueError(f"{shown(name, 100)} has the type {shown(value['dtype'], 20)}, which no Janus has")
    dtype = TYPES[value["dtype"]]
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"the shape of {shown(name, 100)} does not fit its {end - start} bytes")
    return Entry(dtype, tuple(shape), base + start, base + end)


def _check_places(entries: list[Entry], start: int, end: int) -> None:
    """The tensors fill the file from the end of its header to its own, without gaps and overlaps."""
    places = sorted((entry.start, entry.end) for entry in entries)
    ends = [start, *(place[1] for place in places)]
    starts = [*(place[0] for place in places), end]
    if ends != starts:
        raise ValueError(f"its tensors do not fill its {end} bytes")


def _is_safetensors(path: Path) -> bool:
    """By suffix, or by the first bytes, which no pickle shares."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: put the weight file itself there.")
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            length, first = int.from_bytes(file.read(8), "little"), file.read(1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}): check the disk and who may read it.") from error
    return first == b"{" and length <= MAX_HEADER


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    """Views of one mapping of the whole file, so that tensors that follow one another in it can be joined by a view."""
    header = read_header(path)
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be mapped ({error}): check the disk and who may read it.") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        whole = torch.frombuffer(mapping, dtype=torch.uint8)
        weights = {}
        for name, entry in header.entries.items():
            dtype, count = entry.dtype, math.prod(entry.shape)
            if count == 0:
                tensor = torch.empty(0, dtype=dtype)
            elif entry.start % dtype.itemsize == 0:
                tensor = whole[entry.start : entry.end].view(dtype)
            else:  # A view must begin at a multiple of its item size; this has a storage of its own.
                tensor = torch.frombuffer(mapping, dtype=dtype, count=count, offset=entry.start)
            weights[name] = tensor.view(entry.shape)
    return weights


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped:
            _check_zip(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused: it is damaged or contains more than tensors, and such a pickle can run code "
            "on your machine; fetch it from the model's own page."
        ) from error
    except Exception as error:  # a damaged pickle raises anything: KeyError, struct.error, AttributeError, ...
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "not enough memory" in str(error):
            raise CheckpointError(
                f"{path} ({path.stat().st_size / 1e9:.1f} GB) asks for more memory than this machine has: convert it to "
                "safetensors on a larger machine, or fetch it again if it is a small file."
            ) from error
        raise CheckpointError(f"{path} is not a whole PyTorch file: it was cut short, so fetch it again.") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} does not hold a plain table of tensors: it is not a Janus checkpoint.")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise CheckpointError(
                f"{path} was refused: {shown(name, 100)} is not a plain tensor with all of its numbers in the file; fetch it "
                "from the model's own page."
            )
    return state


def _check_zip(path: Path) -> None:
    """PyTorch packs nothing. A packed entry, or a very long list of tensors, would grow in memory without an end."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    pickled = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if packed or pickled > MAX_PICKLE:
        what = "packed entries" if packed else f"a list of tensors of {pickled / 1e6:.0f} MB"
        raise CheckpointError(
            f"{path} was refused: it has {what}, which PyTorch does not write; fetch it from the model's own page."
        )


def _is_plain(tensor: Tensor) -> bool:
    """Whether it holds real numbers on the CPU, each in the file: one number may be repeated to any size by its strides."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_complex())
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )
