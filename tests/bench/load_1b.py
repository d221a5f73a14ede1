"""Benchmark: how a random Janus-Pro-1B loads in each dtype, from two .bin shards and from one converted file.

    python tests/bench/load_1b.py [--folder DIR] [--dtypes bf16 int8 ...] [--rounds N]    (Linux: memory is read from /proc)

A load ends when a byte of each page of each weight was read. Before a cold one the page cache holds nothing of the
files, before a warm one all of them. Each runs in a fresh process, sources take turns, and medians are printed.
"torch.load" reads the shards with PyTorch alone, without a model. The peak counts mapped file pages (RSS); "own" is the
anonymous part of it, which the system cannot take back. The peak in use, drawing and answering with the one file, is
measured once. Needs 5 to 25 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from anonymous_peak import AnonymousPeak

import janus_core
from janus_core.bench.loading import add_tokenizer, in_fresh_process, process_memory, read_every_page
from janus_core.bench.random_weights import fill
from janus_core.bench.table import markdown
from janus_core.config import JanusConfig, published_config
from janus_core.convert import convert
from janus_core.model.janus import JanusModel
from janus_core.precision import NAMES
from janus_core.weights.names import split_fused

NAME = "Janus-Pro-1B"
PLAIN = "torch.load"
HOW = ("cold", "warm")
STEPS = 8


def random_state() -> dict[str, torch.Tensor]:
    """The model's tensors under DeepSeek's names, and those of its file that no model uses."""
    config = JanusConfig.preset(NAME)
    shapes: dict[str, Sequence[int]] = {
        key: t.shape for key, t in split_fused(JanusModel(config, device="meta").state_dict()).items()
    }
    width, wide = config.vision.width, int(config.vision.width * config.vision.mlp_ratio)
    unused = {"latent": (1, 1, width), "norm.weight": (width,), "norm.bias": (width,)}
    for name, rows, columns in (
        ("q", width, width),
        ("kv", 2 * width, width),
        ("proj", width, width),
        ("mlp.fc1", wide, width),
        ("mlp.fc2", width, wide),
    ):
        unused |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    shapes |= {f"vision_model.vision_tower.attn_pool.{name}": shape for name, shape in unused.items()}
    shapes["gen_vision_model.quantize.codebook_used"] = (65536,)
    state = {key: torch.empty(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}
    fill(state.items())
    return state


def write(folder: Path) -> None:
    """Write config, tokenizer (the embedded checkpoint's) and weights."""
    (folder / "config.json").write_text(json.dumps(published_config(NAME)))
    add_tokenizer(folder)
    state = random_state()
    names = sorted(state)
    half = len(names) // 2
    weight_map = {}
    for i, keys in enumerate((names[:half], names[half:]), start=1):
        shard = f"pytorch_model-{i:05}-of-00002.bin"
        torch.save({key: state[key] for key in keys}, folder / shard)
        weight_map |= dict.fromkeys(keys, shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def weight_files(checkpoint: Path) -> list[Path]:
    return [checkpoint] if checkpoint.is_file() else sorted(checkpoint.glob("*.bin"))


def warm_up(files: list[Path]) -> None:
    """Read the files into the page cache."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def evict(files: list[Path]) -> None:
    """Drop the files from the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Enough(Exception):
    """Raised to stop drawing."""


def measure(checkpoint: Path, dtype: str, how: str) -> dict[str, float]:
    """Load in `dtype`, `how` one of "cold", "warm", "use"; seconds of wall and processor time, and bytes."""
    files = weight_files(checkpoint)
    evict(files) if how == "cold" else warm_up(files)
    own = AnonymousPeak()
    own.start()
    start, worked = time.perf_counter(), time.process_time()
    janus = None if dtype == PLAIN else janus_core.load(checkpoint, dtype=dtype)
    shards = [] if janus else [torch.load(path, map_location="cpu", weights_only=True) for path in files]
    read_every_page(janus.model.parameters() if janus else [weight for shard in shards for weight in shard.values()])
    seconds, processor = time.perf_counter() - start, time.process_time() - worked
    if janus and how == "use":
        use(janus)
    return {
        "seconds": seconds,
        "processor": processor,
        "peak": process_memory("VmHWM"),
        "own": max(own.bytes, process_memory("RssAnon")),
    }


def use(janus: janus_core.Janus) -> None:
    """Draw STEPS codes, and answer with STEPS tokens."""

    def stop(step: int, total: int, ids: torch.Tensor) -> None:
        if step == STEPS:
            raise Enough

    with contextlib.suppress(Enough):
        janus.generate("a red circle", seed=1, progress=stop)
    picture = torch.rand(1, 384, 384, 3, generator=torch.Generator().manual_seed(0))
    janus.answer("What is it?", picture, max_new_tokens=STEPS)


def compare(folder: Path, dtype: str, rounds: int) -> list[list[str]]:
    """Load one dtype from each source in turn; a line of the table for each source."""
    converted = folder / "converted" / f"{dtype}.safetensors"
    converted.parent.mkdir(exist_ok=True)
    in_fresh_process(convert, folder, converted, dtype=dtype)
    sources = {"two .bin": (folder, dtype), "one file": (converted, dtype)}
    if dtype == "bf16":
        sources = {f"two .bin, {PLAIN}": (folder, PLAIN)} | sources
    runs: dict[tuple[str, str], list[dict[str, float]]] = {(name, how): [] for name in sources for how in HOW}
    for _ in range(rounds):
        for how in HOW:
            for name, (path, source_dtype) in sources.items():
                runs[name, how].append(in_fresh_process(measure, path, source_dtype, how))
    lines = []
    for name, (path, _) in sources.items():
        size = sum(file.stat().st_size for file in weight_files(path))
        cells = [dtype, name, f"{size / 1e9:.2f}"]
        for how in HOW:
            cells.append(
                " / ".join(f"{median(run[k] for run in runs[name, how]):.2f}" for k in ("seconds", "processor"))
            )
        used = [in_fresh_process(measure, path, dtype, "use")] if path == converted else []
        for some in ([run for how in HOW for run in runs[name, how]], used):
            cells += [f"{max(run[k] for run in some) / 1e9:.2f}" if some else "" for k in ("peak", "own")]
        lines.append(cells)
    converted.unlink()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to put the temporary checkpoint (default: the system's)")
    parser.add_argument("--dtypes", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--rounds", type=int, default=5, help="how often each load is timed, cold and warm")
    arguments = parser.parse_args()
    head = ["dtype", "loaded from", "GB", *(f"{how}: s / processor s" for how in HOW)]
    head += ["peak GB", "own", "peak in use", "own"]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        in_fresh_process(write, Path(name))
        print(markdown(head, []))
        for dtype in arguments.dtypes:
            for cells in compare(Path(name), dtype, arguments.rounds):
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
