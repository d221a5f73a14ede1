"""Seconds until the first new code of a picture whose upper half is kept.

Codes that are kept from the first one on are read many in a pass. Those after a drawn code are read as a picture is drawn:
one in a step, or a window in a pass of jacobi.

    python tests/bench/kept_codes.py --model Janus-Pro-1B --device cpu --dtype bf16

The weights are random, of a published shape. The embedded model is `--model janus-mini`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch import Tensor

from janus_core.bench.command import model_of
from janus_core.bench.engine import SPECIAL
from janus_core.generation.codes import Drawing, Kept
from janus_core.generation.cpu_kernels import fast_layers
from janus_core.generation.execution import Execution
from janus_core.generation.image import draw_codes
from janus_core.generation.jacobi import draw_codes_jacobi
from janus_core.precision import FLOATS


class Enough(Exception):
    """The first new code is there."""


def stop_at(code: int, step: int, *_: object) -> None:
    if step >= code:
        raise Enough


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Seconds until the first new code of a picture whose upper half is kept."
    )
    parser.add_argument("--model", default="Janus-Pro-1B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bf16", choices=FLOATS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kept", type=int, help="how many codes (half of the picture)")
    parser.set_defaults(triton=False)
    args = parser.parse_args()
    execution = Execution(torch.device(args.device))
    model = model_of(args)
    steps = math.prod(model.config.grid)
    count = args.kept or steps // 2
    drawing = Drawing(prompt=[*range(10, 30), SPECIAL["begin_of_image"]], pad=SPECIAL["pad"], steps=steps)
    codes = torch.full((1, steps), -1)
    codes[:, :count] = 7
    later = codes.clone()
    later[:, 0] = -1
    ways: dict[str, tuple[Callable[..., Tensor], int, Tensor]] = {
        f"{name}, kept from the {place} code on": (draw, window, keep)
        for name, draw, window in (("sequential", draw_codes, 1), ("jacobi", draw_codes_jacobi, 8))
        for place, keep in (("first", codes), ("second", later))
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, (draw, window, keep) in ways.items():
            what = replace(drawing, window=window, kept=Kept(keep, torch.zeros(keep.shape)))
            start = time.perf_counter()
            try:
                with fast_layers(model.drawing_parts, rows=what.rows, execution=execution):
                    draw(model, what, execution, partial(stop_at, count + 1))
            except Enough:
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        print(f"{args.model}, {count} of {steps} codes, {name}: {median(times):.3g} s")


if __name__ == "__main__":
    main()
