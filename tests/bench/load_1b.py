"""Benchmark: load a random Janus-Pro-1B from sharded .bin, from safetensors and from converted files, draw and answer.

    python tests/bench/load_1b.py [--folder DIR] [--only bin int8 ...]    (Linux: memory is read from /proc)

Prints times and peak memory beside the size of the weight files, and for converted ones what writing them took. The peak
counts mapped file pages (RSS); the anonymous part of it is what the process needs of its own. Each load runs in a fresh
process; needs 13 GB of disk at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORMATS = ("bin", "safetensors")
CONVERTED = ("bf16", "fp16", "fp32", "fp8_e4m3fn", "int8")
STEPS = 8


def random_state() -> dict:
    """A Janus-Pro-1B's tensors under DeepSeek's names, the unused ones too."""
    import torch

    from janus_core.config import JanusConfig
    from janus_core.model.janus import JanusModel

    config = JanusConfig.preset("Janus-Pro-1B")
    shapes = {key: t.shape for key, t in JanusModel(config, device="meta").state_dict().items()}
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


def write(folder: Path, kind: str) -> None:
    """Write config, tokenizer (the embedded checkpoint's) and weights."""
    import shutil

    import torch
    from safetensors.torch import save_file

    from janus_core.checkpoint import ASSETS
    from janus_core.config import published_config
    from janus_core.pipeline import DEFAULT_CHECKPOINT

    for path in (ASSETS / DEFAULT_CHECKPOINT).glob("*.json"):
        shutil.copyfile(path, folder / path.name)
    (folder / "config.json").write_text(json.dumps(published_config("Janus-Pro-1B")))
    state = random_state()
    if kind == "safetensors":
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    shards = {
        "pytorch_model-00001-of-00002.bin": names[: len(names) // 2],
        "pytorch_model-00002-of-00002.bin": names[len(names) // 2 :],
    }
    for shard, keys in shards.items():
        torch.save({key: state[key] for key in keys}, folder / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


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


def write_converted(folder: Path, path: Path, dtype: str) -> dict[str, float]:
    """Convert; seconds and bytes."""
    sampler = AnonymousPeak()
    sampler.start()
    sys.path.insert(0, str(ROOT))
    from janus_core.convert import convert

    start = time.perf_counter()
    convert(folder, path, dtype)
    return {"seconds": time.perf_counter() - start, "peak": memory("VmHWM"), "anonymous": sampler.peak}


def measure(checkpoint: Path, dtype: str) -> dict[str, float]:
    """Load in `dtype`, draw STEPS tokens, answer STEPS words; seconds and bytes."""
    sampler = AnonymousPeak()
    sampler.start()
    import torch

    import janus_core

    start = time.perf_counter()
    janus = janus_core.load(checkpoint, dtype=dtype)
    loaded, load_peak, load_anonymous = time.perf_counter(), memory("VmHWM"), sampler.peak

    def stop(step: int, total: int, ids: torch.Tensor) -> None:
        if step == STEPS:
            raise Enough

    try:
        janus.generate("a red circle", seed=1, progress=stop)
    except Enough:
        drawn = time.perf_counter()
    picture = torch.rand(1, 384, 384, 3, generator=torch.Generator().manual_seed(0))
    janus.answer("What is it?", picture, max_new_tokens=STEPS)
    answered = time.perf_counter()
    return {
        "load": loaded - start,
        "draw": drawn - loaded,
        "answer": answered - drawn,
        "load_peak": load_peak,
        "load_anonymous": load_anonymous,
        "peak": memory("VmHWM"),
        "anonymous": max(sampler.peak, memory("RssAnon")),
    }


def report(kind: str, size: int, m: dict[str, float]) -> str:
    def gb(what: str) -> str:
        return f"{m[what] / 1e9:5.2f} GB ({m[what] / size:4.2f} x file)"

    total = m["load"] + m["draw"] + m["answer"]
    return (
        f"{kind:12} file {size / 1e9:.2f} GB   load {m['load']:5.1f} s   draw {STEPS} tokens {m['draw']:5.1f} s   "
        f"answer {STEPS} words {m['answer']:5.1f} s   total {total:5.1f} s\n"
        f"{'':12} peak after load {gb('load_peak')}, of it anonymous {gb('load_anonymous')}\n"
        f"{'':12} peak in all     {gb('peak')}, of it anonymous {gb('anonymous')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to put the temporary checkpoint (default: the system's)")
    parser.add_argument("--only", nargs="+", default=[*FORMATS, *CONVERTED], choices=[*FORMATS, *CONVERTED])
    parser.add_argument("--write", choices=FORMATS, help=argparse.SUPPRESS)
    parser.add_argument("--convert", choices=CONVERTED, help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=CONVERTED, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if arguments.write:
        return write(arguments.folder, arguments.write)
    if arguments.convert:
        return print(json.dumps(write_converted(arguments.folder, arguments.file, arguments.convert)))
    if arguments.measure:
        return print(json.dumps(measure(arguments.file or arguments.folder, arguments.measure)))
    # This process stays small: Linux counts a parent's peak into the children it starts.
    for kind in FORMATS:
        if kind in arguments.only or (kind == "bin" and {*CONVERTED} & {*arguments.only}):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                child("--folder", folder, "--write", kind)
                size = sum(p.stat().st_size for p in Path(folder).iterdir() if p.suffix in (".bin", ".safetensors"))
                if kind in arguments.only:
                    print(report(kind, size, child("--folder", folder, "--measure", "bf16")), flush=True)
                for dtype in CONVERTED if kind == "bin" else ():
                    if dtype in arguments.only:
                        show_converted(Path(folder), dtype)


def child(*options: str) -> dict[str, float]:
    """This program in a process of its own; what it prints."""
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603 (our own interpreter)
    return json.loads(done.stdout or "{}")


def show_converted(folder: Path, dtype: str) -> None:
    path = folder / "alone" / f"{dtype}.safetensors"
    path.parent.mkdir()
    options = ("--folder", str(folder), "--file", str(path))
    m = child(*options, "--convert", dtype)
    print(
        f"{dtype:12} written in {m['seconds']:.1f} s, peak {m['peak'] / 1e9:.2f} GB, of it anonymous "
        f"{m['anonymous'] / 1e9:.2f} GB"
    )
    print(report(dtype, path.stat().st_size, child(*options, "--measure", dtype)), flush=True)
    path.unlink()
    path.parent.rmdir()


if __name__ == "__main__":
    main()
