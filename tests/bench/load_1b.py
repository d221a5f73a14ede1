"""Benchmark: how a random Janus-Pro-1B loads in each dtype, from two .bin shards and from one converted file.

    python tests/bench/load_1b.py [--folder DIR] [--dtypes bf16 int8 ...] [--rounds N]    (Linux: memory is read from /proc)

A load lasts until a byte of each page of each weight was read. Cold ones find nothing of the files in the page cache,
warm ones all of it; each runs in a fresh process, sources take turns, and medians are printed. "torch.load" reads the
shards as PyTorch does when left alone, without a model. The peak counts mapped file pages (RSS); "own" is the anonymous
part of it, which nothing but the process can give back. The peak in use, drawing and answering with the one file,
is measured once. Needs 5 to 25 GB of disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import janus_core

ROOT = Path(__file__).parents[2]
DTYPES = ("bf16", "fp16", "fp32", "fp8_e4m3fn", "int8")
PLAIN = "torch.load"
STEPS = 8


def random_state() -> dict:
    """A Janus-Pro-1B's tensors under DeepSeek's names, the unused ones too."""
    import torch

    from janus_core.config import JanusConfig
    from janus_core.model.janus import JanusModel
    from janus_core.weights.names import split_fused

    config = JanusConfig.preset("Janus-Pro-1B")
    shapes = {key: t.shape for key, t in split_fused(JanusModel(config, device="meta").state_dict()).items()}
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
    state = {}
    for key, shape in shapes.items():
        tensor = torch.empty(shape, dtype=torch.bfloat16)
        state[key] = tensor.fill_(1) if "norm" in key and key.endswith("weight") else tensor.normal_(0, 0.02)
    return state


def write(folder: Path) -> None:
    """Write config, tokenizer (the embedded checkpoint's) and weights."""
    import shutil

    import torch

    from janus_core.config import published_config
    from janus_core.pipeline import DEFAULT_CHECKPOINT
    from janus_core.weights.checkpoint import ASSETS

    for path in (ASSETS / DEFAULT_CHECKPOINT).glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(published_config("Janus-Pro-1B")))
    state = random_state()
    names = sorted(state)
    shards = {
        "pytorch_model-00001-of-00002.bin": names[: len(names) // 2],
        "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :],
    }
    for shard, keys in shards.items():
        torch.save({key: state[key] for key in keys}, folder / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


def weight_files(checkpoint: Path) -> list[Path]:
    return [checkpoint] if checkpoint.is_file() else sorted(checkpoint.glob("*.bin"))


def warm_up(files: list[Path]) -> None:
    """Have the page cache hold the files."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def evict(files: list[Path]) -> None:
    """Have the page cache hold nothing of the files."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def memory(field: str) -> int:
    """A line of /proc/self/status, in bytes: VmHWM is the peak RSS, RssAnon the anonymous part now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


class AnonymousPeak(threading.Thread):
    """Samples RssAnon, whose peak the kernel does not keep."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, memory("RssAnon"))
            time.sleep(0.01)


class Enough(Exception):
    """Raised to stop drawing."""


def measure(checkpoint: Path, dtype: str, how: str) -> dict[str, float]:
    """Load in `dtype`, `how` one of "cold", "warm", "use"; seconds of wall and processor time, and bytes."""
    import torch

    import janus_core

    files = weight_files(checkpoint)
    evict(files) if how == "cold" else warm_up(files)
    sampler = AnonymousPeak()
    sampler.start()
    start, worked = time.perf_counter(), time.process_time()
    if dtype == PLAIN:
        shards = [torch.load(path, map_location="cpu", weights_only=True) for path in files]
        weights = [weight for shard in shards for weight in shard.values()]
    else:
        janus = janus_core.load(checkpoint, dtype=dtype)
        weights = list(janus.model.parameters())
    for weight in weights:
        weight.flatten().view(torch.uint8)[:: os.sysconf("SC_PAGE_SIZE")].sum()
    seconds, processor = time.perf_counter() - start, time.process_time() - worked
    if how == "use":
        use(janus)
    return {
        "seconds": seconds,
        "processor": processor,
        "peak": memory("VmHWM"),
        "own": max(sampler.peak, memory("RssAnon")),
    }


def use(janus: janus_core.Janus) -> None:
    """Draw STEPS tokens, and answer with STEPS words."""
    import torch

    def stop(step: int, total: int, ids: torch.Tensor) -> None:
        if step == STEPS:
            raise Enough

    with contextlib.suppress(Enough):
        janus.generate("a red circle", seed=1, progress=stop)
    picture = torch.rand(1, 384, 384, 3, generator=torch.Generator().manual_seed(0))
    janus.answer("What is it?", picture, max_new_tokens=STEPS)


def child(*options: str) -> dict[str, float]:
    """This program in a process of its own; what it prints."""
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 (our own interpreter)
    return json.loads(done.stdout or "{}")


def compare(folder: Path, dtype: str, rounds: int) -> None:
    """Load one dtype from each source in turn, and print a row of Markdown for each."""
    alone = folder / "alone" / f"{dtype}.safetensors"
    alone.parent.mkdir(exist_ok=True)
    child("--folder", str(folder), "--convert", dtype, "--file", str(alone))
    sources = {"two .bin": (folder, dtype), "one file": (alone, dtype)}
    if dtype == "bf16":
        sources = {f"two .bin, {PLAIN}": (folder, PLAIN)} | sources
    found: dict[str, dict[str, list[dict[str, float]]]] = {name: {"cold": [], "warm": []} for name in sources}
    for _ in range(rounds):
        for how in ("cold", "warm"):
            for name, (path, kind) in sources.items():
                found[name][how].append(child("--file", str(path), "--measure", kind, "--how", how))
    for name, (path, _) in sources.items():
        size = sum(file.stat().st_size for file in weight_files(path))
        cells = [dtype, name, f"{size / 1e9:.2f}"]
        for how in ("cold", "warm"):
            some = found[name][how]
            cells.append(" / ".join(f"{median(m[what] for m in some):.2f}" for what in ("seconds", "processor")))
        runs = [*found[name]["cold"], *found[name]["warm"]]
        cells += [f"{max(m[what] for m in runs) / 1e9:.2f}" for what in ("peak", "own")]
        if path == alone:
            used = child("--file", str(path), "--measure", dtype, "--how", "use")
            cells += [f"{used[what] / 1e9:.2f}" for what in ("peak", "own")]
        else:
            cells += ["", ""]
        print(f"| {' | '.join(cells)} |", flush=True)
    alone.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to put the temporary checkpoint (default: the system's)")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=5, help="how often each load is timed, cold and warm")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--convert", choices=DTYPES, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=(*DTYPES, PLAIN), help=argparse.SUPPRESS)
    parser.add_argument("--how", choices=("cold", "warm", "use"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if arguments.write:
        return write(arguments.folder)
    if arguments.convert:
        from janus_core.weights.convert import convert

        convert(arguments.folder, arguments.file, dtype=arguments.convert)
        return None
    if arguments.measure:
        return print(json.dumps(measure(arguments.file, arguments.measure, arguments.how)))
    # This process stays small: Linux counts a parent's peak into the children it starts.
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        child("--folder", folder, "--write")
        print(
            "| dtype | loaded from | GB | cold: s / processor s | warm: s / processor s | peak GB | own "
            "| peak in use | own |\n" + "| --- " * 9 + "|"
        )
        for dtype in arguments.dtypes:
            compare(Path(folder), dtype, arguments.rounds)


if __name__ == "__main__":
    main()
