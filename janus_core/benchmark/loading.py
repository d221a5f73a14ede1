"""Opening a checkpoint: how long it takes, and how much memory at most, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .measure import Row

OURS = """
from janus_core.checkpoint import find
from janus_core.loading import load_model
open_it = lambda: load_model(find({folder!r}), dtype={dtype})
"""
TRANSFORMERS = """
from transformers import JanusForConditionalGeneration
open_it = lambda: JanusForConditionalGeneration.from_pretrained({folder!r}, dtype={dtype})
"""
# VmHWM counts the file's mapped pages too, which the system takes back when it needs them.
MEASURE = """
import sys, time, torch
{prepare}
start = time.perf_counter()
model = open_it()
print(time.perf_counter() - start)
lines = open("/proc/self/status").read().splitlines()
print(*(int(line.split()[1]) * 1024 for name in ("VmHWM", "RssAnon") for line in lines if line.startswith(name + ":")))
"""
TYPES = {"bf16": "torch.bfloat16", "fp16": "torch.float16", "fp32": "torch.float32"}


def loading(twin: Any, dtype: str, rounds: int) -> list[Row]:
    """Seconds (the best of `rounds`) and GB of opening the benchmark's weights as a file in the type it is written in. Linux only.

    The floor of memory is the file's size.
    """
    if not Path("/proc/self/status").exists():
        return []
    seconds = Row("load", "s")
    peak, own = Row("load: peak memory, mapped file included", "GB"), Row("load: memory of its own", "GB")
    with tempfile.TemporaryDirectory() as folder:
        twin.save_pretrained(folder)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e9
        for name, prepare in (("transformers", TRANSFORMERS), ("ours", OURS)):
            code = MEASURE.format(prepare=prepare.format(folder=folder, dtype=TYPES[dtype]))
            found = [_figures(code) for _ in range(rounds)]
            seconds.values[name] = min(times for times, _, _ in found)
            peak.values[name], own.values[name] = (max(row[i] for row in found) / 1e9 for i in (1, 2))
    peak.floor = own.floor = size
    return [seconds, peak, own]


def _figures(code: str) -> list[float]:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 (our own code)
    return [float(word) for word in done.stdout.split()[-3:]]
