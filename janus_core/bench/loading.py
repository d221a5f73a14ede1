"""Opening a checkpoint: how long it takes and how much memory, in a fresh process each time. Linux only."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..checkpoints import DEFAULT_CHECKPOINT
from ..convert import convert
from ..model.janus import JanusModel
from ..precision import FLOATS
from ..weights.checkpoint import ASSETS, find
from ..weights.loading import load_model
from ..weights.saving import save_weights
from .table import Row

STATUS = Path("/proc/self/status")
Open = Callable[[Path, torch.dtype], nn.Module]
Result = TypeVar("Result")


def process_memory(field: str) -> int:
    """A field of this process's status in bytes: VmHWM is the peak with mapped file pages, RssAnon its own memory now."""
    return next(int(line.split()[1]) * 1024 for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))


def in_fresh_process(function: Callable[..., Result], *arguments: object, **named: object) -> Result:
    """Call a module's function in a new process, whose memory is its own, and return its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()


def read_every_page(weights: Iterable[Tensor]) -> None:
    """Read a byte of each page of memory: a mapped file is read only when its pages are used."""
    for weight in weights:
        weight.detach().flatten().view(torch.uint8)[::4096].sum()


def add_tokenizer(folder: Path) -> None:
    """Complete a checkpoint of random weights with those text files of the embedded one that it lacks."""
    for path in (ASSETS / DEFAULT_CHECKPOINT).glob("*.json"):
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def write_checkpoint(model: JanusModel, config: dict[str, Any], folder: Path) -> None:
    """Write weights and `config`, the content of config.json."""
    (folder / "config.json").write_text(json.dumps(config))
    save_weights(model, folder, next(model.parameters()).dtype)


def open_ours(path: Path, dtype: torch.dtype) -> nn.Module:
    return load_model(find(path), dtype=dtype)


def loading(write: Callable[[Path], None], dtype: str, others: Mapping[str, Open], *, rounds: int) -> list[Row]:
    """Seconds (the least of `rounds`) and GB (the most) of opening a checkpoint in the type it is written in.

    `write` puts config and weights into a folder. Ours opens that folder, and the file that `convert` makes of it;
    `others` open the folder. The floor of memory is the size of the weights' files.
    """
    if not STATUS.exists():
        return []
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "checkpoint")
        folder.mkdir()
        write(folder)
        add_tokenizer(folder)
        converted = convert(folder, Path(name, "converted.safetensors"), dtype=dtype)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
        theirs = {name: _best(open_model, folder, dtype, rounds) for name, open_model in others.items()}
        for what, path in (("load", folder), ("load a converted file", converted)):
            found = theirs | {"ours": _best(open_ours, path, dtype, rounds)}
            titles = (what, f"{what}: peak memory, mapped file included", f"{what}: own memory")
            rows += [
                Row(title, "GB" if i else "s", {name: f[i] for name, f in found.items()}, size if i else None)
                for i, title in enumerate(titles)
            ]
    return rows


def _best(open_model: Open, path: Path, dtype: str, rounds: int) -> tuple[float, float, float]:
    """The least seconds, and the most GB: peak, and own."""
    times, peaks, owns = zip(
        *(in_fresh_process(_opened, open_model, path, FLOATS[dtype]) for _ in range(rounds)), strict=True
    )
    return min(times), max(peaks) / 1e9, max(owns) / 1e9


def _opened(open_model: Open, path: Path, dtype: torch.dtype) -> tuple[float, int, int]:
    start = time.perf_counter()
    model = open_model(path, dtype)
    read_every_page(model.parameters())
    return time.perf_counter() - start, process_memory("VmHWM"), process_memory("RssAnon")
