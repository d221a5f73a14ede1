"""Opening a checkpoint: how long it takes, and how much memory at most, each in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..pipeline import DEFAULT_CHECKPOINT
from ..weights.checkpoint import ASSETS
from ..weights.convert import convert
from .measure import Row

OURS = """
from janus_core.weights.checkpoint import find
from janus_core.weights.loading import load_model
open_it = lambda: load_model(find({path!r}), dtype={dtype})
"""
TRANSFORMERS = """
from transformers import JanusForConditionalGeneration
open_it = lambda: JanusForConditionalGeneration.from_pretrained({path!r}, dtype={dtype})
"""
# Both map files, which are read as weights are used: all are, a byte of each page. VmHWM counts the mapped pages too,
# which the system takes back when it needs them.
MEASURE = """
import sys, time, torch
{prepare}
start = time.perf_counter()
model = open_it()
for weight in model.parameters():
    weight.detach().flatten().view(torch.uint8)[::4096].sum()
print(time.perf_counter() - start)
lines = open("/proc/self/status").read().splitlines()
print(*(int(line.split()[1]) * 1024 for name in ("VmHWM", "RssAnon") for line in lines if line.startswith(name + ":")))
"""
TYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}


def loading(twin: Any, dtype: str, rounds: int) -> list[Row]:
    """Seconds (the best of `rounds`) and GB of opening the benchmark's weights, in the type they are written in. Linux only.

    Transformers opens its own file; ours the same, and what `convert` makes of it. The floor of memory is a file's size.
    """
    if not Path("/proc/self/status").exists():
        return []
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "theirs")
        twin.save_pretrained(folder)
        for path in (ASSETS / DEFAULT_CHECKPOINT).glob("*.json"):  # a tokenizer, which it has none of
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        alone = convert(folder, Path(name, "ours.safetensors"), dtype=dtype)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
        theirs = _best(TRANSFORMERS, folder, dtype, rounds)
        for what, path in (("load", folder), ("load a converted file", alone)):
            ours = _best(OURS, path, dtype, rounds)
            units = (what, "s"), (f"{what}: peak memory, mapped file included", "GB"), (f"{what}: own memory", "GB")
            for i, (title, unit) in enumerate(units):
                rows.append(Row(title, unit, {"transformers": theirs[i], "ours": ours[i]}, size if i else None))
    return rows


def _best(prepare: str, path: Path, dtype: str, rounds: int) -> tuple[float, float, float]:
    """The least seconds, and the most GB: peak, and own."""
    code = MEASURE.format(prepare=prepare.format(path=str(path), dtype=TYPES[dtype]))
    root = Path(__file__).parents[2]
    found: list[list[float]] = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 (our own code)
        found.append([float(word) for word in done.stdout.split()[-3:]])
    times, peaks, owns = zip(*found, strict=True)
    return min(times), max(peaks) / 1e9, max(owns) / 1e9
