"""Write a checkpoint as a single self-contained safetensors file."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .dialects import JANUS_PRO, dialect_by_name
from .errors import CheckpointError, InputError, size_text
from .precision import SAFETENSORS, Precision
from .processing import Processor
from .weights.checkpoint import TEXT_FILES, CheckpointFiles, find
from .weights.loading import TensorReader, empty_model
from .weights.writing import MAX_NAME_BYTES, replacing, sweep


def convert(
    checkpoint: str | Path,
    path: str | Path,
    *,
    dtype: str = "bf16",
    progress: Callable[[int, int, None], None] | None = None,
) -> Path:
    """Write a checkpoint as a single self-contained file, with config and tokenizer in its metadata.

    Tensors have DeepSeek's names and are cast to `dtype`, one of precision.NAMES, one at a time. The file gets its name
    when it is complete. `progress(step, total, None)` is called after each tensor and may raise to stop, which leaves
    nothing behind. Returns `path`.
    Raises CheckpointError when the checkpoint would not load, InputError when `path` cannot or must not be written.
    """
    path, precision = Path(path), Precision.of(dtype)
    check_name(path.name)
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent}: create it, or choose another.")
    _refuse_overwriting(path)
    files = find(checkpoint)
    config = files.config()
    Processor(files, config)  # raises where the tokenizer would not load
    tensors = TensorReader(files, empty_model(config, precision))
    header, offsets, size = _header(tensors.expected, _texts(files, precision.name))
    sweep(path.parent)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise InputError(
            f"{path.parent} has {size_text(free)} free, and the file takes {size_text(size)}: make room or choose "
            "another folder."
        )
    with replacing(path) as part:
        with part.open("r+b") as file:
            file.write(header)
            for step, (name, tensor) in enumerate(tensors, start=1):
                file.seek(len(header) + offsets[name])
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                if progress is not None:
                    progress(step, len(offsets), None)
        _refuse_overwriting(path)
    return path


def check_name(name: str) -> None:
    """Raise InputError for the name of a file that cannot be written: of another ending, or too long."""
    if Path(name).suffix.lower() != ".safetensors":
        raise InputError(f"{name} does not end in .safetensors, as the file must: add that ending.")
    if (size := len(os.fsencode(name))) > MAX_NAME_BYTES:
        raise InputError(
            f"The file name {name[:40]}... takes {size} bytes and may take {MAX_NAME_BYTES}: choose a shorter one."
        )


def _refuse_overwriting(path: Path) -> None:
    if path.exists():
        raise InputError(
            f"{path} is there already and will not be overwritten: choose another name, or remove it first."
        )


def _texts(files: CheckpointFiles, dtype: str) -> dict[str, str]:
    """The file's metadata. `name` is kept because it may be all that tells the dialect."""
    texts = {name: text for name in TEXT_FILES if (text := files.read(name)) is not None}
    name = max(files.names, key=lambda name: dialect_by_name([name]) is not JANUS_PRO)
    return {"format": "pt", "name": name, "dtype": dtype} | texts


def _header(tensors: dict[str, Tensor], texts: dict[str, str]) -> tuple[bytes, dict[str, int], int]:
    """The file up to its first tensor, where each tensor begins after that, and the size of the whole file.

    The format is 8 bytes with the length of a JSON text, the text, and the tensors without gaps.
    """
    entries: dict[str, Any] = {"__metadata__": texts}
    offsets, end = {}, 0
    # 1. The tensors with the largest items come first, so that each begins at a multiple of its own item size.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        offsets[name], end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": SAFETENSORS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offsets[name], end],
        }
    # 2. Spaces after the JSON make the first tensor begin at a multiple of 8 bytes, so the others are aligned in memory.
    text = json.dumps(entries, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    # 3. Readers of the format refuse a longer header.
    if len(text) > 100_000_000:
        raise CheckpointError("The config and tokenizer are too large for the header of a safetensors file.")
    return len(text).to_bytes(8, "little") + text, offsets, 8 + len(text) + end
