"""Write a checkpoint as one self-contained safetensors file: its weights in a chosen dtype, config and tokenizer inside."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError
from ..precision import NAMES, Precision
from ..processing import Processor
from .checkpoint import TEXT_FILES, CheckpointFiles, find
from .loading import CheckpointTensors, empty_model

# The safetensors format's own names.
STORED = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
}


def convert(
    checkpoint: str | Path,
    path: str | Path,
    dtype: str = "bf16",
    progress: Callable[[int, int, None], None] | None = None,
) -> Path:
    """Write any checkpoint that loads as one file that loads alone, under DeepSeek's tensor names.

    `dtype` is one of precision.NAMES. Tensors are read, cast and written one at a time; the file has its name only once
    it is whole. `progress(step, total, None)` may raise to stop, which leaves nothing behind.
    Raises CheckpointError when the checkpoint would not load, InputError when `path` cannot or must not be written.
    """
    path = Path(path)
    if dtype not in NAMES:
        raise InputError(f"There is no dtype {dtype!r}: choose one of {', '.join(NAMES)}.")
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path} does not end in .safetensors, which it will be: give it that ending.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {path.parent}: make it first, or choose another.")
    _refuse_overwriting(path)
    source = find(checkpoint)
    config = source.config()
    Processor(source, config)
    tensors = CheckpointTensors(source, empty_model(config, Precision.of(dtype)))
    header, offsets, size = _header(tensors.targets, _texts(source, dtype))
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise InputError(
            f"{path.parent} has {free / 1e9:.1f} GB free, and the file takes {size / 1e9:.1f} GB: make room or choose "
            "another folder."
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("xb") as file:
            file.write(header)
            for step, (key, tensor) in enumerate(tensors, start=1):
                file.seek(len(header) + offsets[key])
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                if progress is not None:
                    progress(step, len(offsets), None)
        _refuse_overwriting(path)
        partial.rename(path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error}): see to the disk, or choose another folder."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _refuse_overwriting(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path} is there already, and is not overwritten: choose another name, or remove it first.")


def _texts(source: CheckpointFiles, dtype: str) -> dict[str, str]:
    """What the file carries beside its tensors; of the source's names the one that tells which roles it was trained with."""
    texts = {name: text for name in TEXT_FILES if (text := source.read(name)) is not None}
    name = max(source.names, key=lambda name: "1.3b" in name.lower())
    return {"format": "pt", "name": name, "dtype": dtype} | texts


def _header(tensors: dict[str, Tensor], texts: dict[str, str]) -> tuple[bytes, dict[str, int], int]:
    """The file's first bytes, where each tensor begins after them, and the size of the whole.

    The largest types come first, so that every tensor is aligned.
    """
    entries: dict[str, Any] = {"__metadata__": texts}
    offsets, end = {}, 0
    for key, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):
        offsets[key], end = end, end + tensor.nbytes
        entries[key] = {
            "dtype": STORED[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offsets[key], end],
        }
    text = json.dumps(entries, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > 100_000_000:
        raise CheckpointError("The config and tokenizer are too large to travel inside a safetensors file.")
    return len(text).to_bytes(8, "little") + text, offsets, 8 + len(text) + end
