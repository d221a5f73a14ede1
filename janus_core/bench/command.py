"""`python -m janus_core bench`: this pack's speed on random weights, compared with the floor.

The floor is the memory-bandwidth limit: the time to read what a step must read once.
tests/bench/beside.py measures other implementations in the same table.
"""

import argparse
import gc
import json
import math
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..config import JanusConfig, published_config
from ..errors import InputError
from ..model.janus import JanusModel
from ..precision import FLOATS
from ..published import PUBLISHED
from ..weights.checkpoint import find
from .engine import Engine, Ours
from .jacobi import jacobi
from .loading import loading, write_checkpoint
from .measure import answering, bandwidth, decode_step, vq_decode, whole_picture
from .random_weights import in_8_bits, random_model
from .table import Row, comparison

NAMES = tuple(model.name for model in PUBLISHED)
Measurement = Callable[[], list[Row]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the `bench` command to argparse."""
    parser.add_argument("--model", default="Janus-Pro-1B", help=f"{', '.join(NAMES)}, or any checkpoint's shape")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    parser.add_argument("--dtype", default="bf16", choices=FLOATS, help="type of the random weights")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 4, 16], help="batch sizes")
    parser.add_argument("--int8", action="store_true", help="also measure ours with its big layers in int8")
    parser.add_argument("--triton", action="store_true", help="also measure ours with Triton's kernels (CUDA only)")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: a few minutes on two cores")
    parser.add_argument("--whole", action="store_true", help="also draw whole pictures")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure ours. Raises InputError for --triton on another device than CUDA, CheckpointError for an unknown model."""
    model = model_of(args)
    report(
        args,
        [
            *speed(args, model, engines=our_engines(args, model), decoders={}),
            lambda: loading(
                partial(write_checkpoint, model, config_of(args.model)), args.dtype, {}, rounds=1 if args.quick else 3
            ),
            lambda: jacobi(torch.device(args.device)),
        ],
    )


def config_of(model: str) -> dict[str, Any]:
    """The config.json of a published model, or of a checkpoint."""
    return published_config(model) if model in NAMES else find(model).read_json("config.json")


def model_of(args: argparse.Namespace) -> JanusModel:
    """The model to measure, of random weights."""
    if args.triton and torch.device(args.device).type != "cuda":
        raise InputError(f"--triton is given with --device {args.device}: its kernels are for cuda.")
    config = JanusConfig.preset(args.model) if args.model in NAMES else find(args.model).config()
    return random_model(config, torch.device(args.device), FLOATS[args.dtype])


def our_engines(args: argparse.Namespace, model: JanusModel) -> list[Engine]:
    """Ours, and its variants that the flags ask for."""
    device = torch.device(args.device)
    models = {"ours": model} | ({"ours int8": in_8_bits(model)} if args.int8 else {})
    engines: list[Engine] = [Ours(each, device, name=name) for name, each in models.items()]
    if args.triton:
        from ..generation import triton_kernels

        engines += [Ours(each, device, name=f"{name} Triton", kernels=triton_kernels) for name, each in models.items()]
    return engines


def speed(
    args: argparse.Namespace,
    model: JanusModel,
    *,
    engines: Sequence[Engine],
    decoders: Mapping[str, Callable[[Tensor], object]],
) -> list[Measurement]:
    """Decode steps, whole pictures, answers, and VQ decode, there beside other `decoders`."""
    codes = math.prod(model.config.grid)
    on_cpu = torch.device(args.device).type == "cpu"
    counts = [n for n in args.pictures if n <= 4] if args.quick and on_cpu else args.pictures
    # A long prompt takes long to prefill on a CPU.
    contexts = [24] if args.quick else [24, 24 + codes // 2, 24 + codes]
    steps, rounds = 8 if args.quick else 16, 3
    if torch.device(args.device).type == "cuda":  # steps are short, and some of them capture a graph
        steps *= 16
    work: list[Measurement] = [
        lambda n=n, c=c: [decode_step(engines, model, count=n, context=c, steps=steps, rounds=rounds)]
        for n in counts
        for c in contexts
    ]
    if args.whole:
        work += [lambda n=n: [whole_picture(engines, model, count=n)] for n in counts]
    return [
        *work,
        lambda: answering(engines, model, tokens=48, rounds=1 if args.quick else 3),
        lambda: [vq_decode(model, decoders, rounds=rounds)],
    ]


def report(args: argparse.Namespace, measurements: Sequence[Measurement]) -> None:
    """Measure, print the table, and write the figures to --json after each measurement, so that none is lost."""
    device = torch.device(args.device)
    about = {
        "model": args.model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bandwidth_gb_s": round(bandwidth(device) / 1e9, 1),
    }
    rows: list[Row] = []
    for measure in tqdm(measurements, unit="row", disable=None):
        found = measure()
        rows += found
        for row in found:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in row.values.items())
            tqdm.write(f"{row.what}, {row.unit}: {figures}", file=sys.stderr)
        if args.json:
            args.json.write_text(json.dumps({"about": about, "rows": [vars(row) for row in rows]}, indent=1) + "\n")
        gc.collect()
    print(" · ".join(f"{key} {value}" for key, value in about.items()))
    print(comparison(rows))
