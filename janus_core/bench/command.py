"""The benchmark's command: which rows are measured, the table, the JSON file."""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..config import JanusConfig
from ..errors import InputError
from ..model.janus import JanusModel
from ..pipeline import DEFAULT_CHECKPOINT
from ..weights.checkpoint import find
from .engines import Engine, Original, Ours, Transformers, transformers_twin
from .jacobi import jacobi
from .loading import loading
from .measure import (
    Bandwidth,
    Row,
    answering,
    decode_step,
    in_8_bits,
    random_model,
    vq_decode,
    whole_picture,
)

PUBLISHED = ("Janus-1.3B", "Janus-Pro-1B", "Janus-Pro-7B")
TRITON = "ours Triton"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="Janus-Pro-1B", help=f"{', '.join(PUBLISHED)}, or any checkpoint's shape")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES, help="type of the random weights")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 4, 16], help="batch sizes")
    parser.add_argument("--int8", action="store_true", help="also measure ours with its big layers in int8")
    parser.add_argument("--triton", action="store_true", help="also measure ours with Triton's kernels (CUDA only)")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: a few minutes on two cores")
    parser.add_argument("--whole", action="store_true", help="also draw whole pictures with every engine")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure all rows, print the table with ratios, and write the JSON file."""
    device, dtype = torch.device(args.device), DTYPES[args.dtype]
    if args.triton and device.type != "cuda":
        raise InputError(f"--triton is given with --device {args.device}: its kernels are for cuda.")
    published = args.model in PUBLISHED
    config = JanusConfig.preset(args.model) if published else find(args.model or DEFAULT_CHECKPOINT).config()
    bandwidth = Bandwidth(device)
    model = random_model(config, device, dtype)
    twin = transformers_twin(model)
    # What it opens from a file: only a picture head as wide as the model.
    plain = replace(config, gen_head_width=config.llama.hidden_size)
    opened = twin if plain == config else transformers_twin(random_model(plain, device, dtype))
    engines: list[Engine] = [Original(model, twin, device), Transformers(twin, device), Ours(model, device)]
    if args.int8:
        engines.append(Ours(in_8_bits(model), device, "ours int8"))
    if args.triton:
        from ..generation import triton_kernels as kernels

        engines.append(Ours(model, device, TRITON, kernels))

    rows: list[Row] = []
    measurements = plan(args, engines, model, twin, bandwidth)
    measurements += [
        lambda: loading(opened, args.dtype, 1 if args.quick else 3),
        lambda: jacobi(device),
    ]
    about = {
        "model": args.model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bandwidth_gb_s": round(bandwidth() / 1e9, 1),
    }
    for measure in tqdm(measurements, unit="row", disable=None):
        found = measure()
        rows += found
        for row in found:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row.values.items())
            tqdm.write(f"{row.what}, {row.unit}: {figures}", file=sys.stderr)
        if args.json:  # at once, so that a run that is cut short leaves what it has
            args.json.write_text(json.dumps({"about": about, "rows": [vars(row) for row in rows]}, indent=1) + "\n")
        gc.collect()
    print(" · ".join(f"{key} {value}" for key, value in about.items()))
    print(table(rows))


def plan(
    args: argparse.Namespace, engines: list[Engine], model: JanusModel, twin: Any, bandwidth: Bandwidth
) -> list[Callable[[], list[Row]]]:
    """The measurements in order, each a call that gives rows."""
    codes = model.config.grid[0] * model.config.grid[1]
    counts = [n for n in args.pictures if n <= 4] if args.quick else args.pictures
    contexts = [24] if args.quick else [24, 24 + codes // 2, 24 + codes]  # a long one takes long to read, on a CPU
    steps, rounds = (8, 3) if args.quick else (16, 3)
    if torch.device(args.device).type == "cuda":  # where steps are short, and a graph is captured every so many
        steps *= 16
    work: list[Callable[[], list[Row]]] = [
        lambda n=n, c=c: [decode_step(engines, model, n, c, steps, rounds, bandwidth)] for n in counts for c in contexts
    ]
    if args.whole:
        work += [lambda n=n: [whole_picture(engines, model, n, bandwidth)] for n in counts]
    speaking = [engine for engine in engines if engine.name != TRITON]  # whose kernels are for drawing
    work.append(lambda: answering(speaking, model, 48, 1 if args.quick else 3))
    work.append(lambda: [vq_decode(model, twin, rounds)])
    return work


def table(rows: list[Row]) -> str:
    """The rows as Markdown, with ours over each peer and over the floor."""
    peers = [name for name in dict.fromkeys(name for row in rows for name in row.values) if name != "ours"]
    head = ["", *peers, "ours", "floor", *(f"ours / {name}" for name in peers), "ours / floor"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        mine = row.values["ours"]
        cells = [f"{row.values[name]:.4g}" if name in row.values else "" for name in (*peers, "ours")]
        floor = f"{row.floor:.4g}" if row.floor else ""
        ratios = [f"{mine / row.values[name]:.2f}" if name in row.values else "" for name in peers]
        lines.append(
            [f"{row.what}, {row.unit}", *cells, floor, *ratios, f"{mine / row.floor:.2f}" if row.floor else ""]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
