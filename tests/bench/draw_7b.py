"""Benchmark: the memory that one picture of a Janus-Pro-7B of random weights takes on a CPU, measured beside the estimate.

    python tests/bench/draw_7b.py [--dtype int8] [--steps 576]    (Linux: memory is read from /proc)

The weights that drawing never uses (SigLIP, the text head) are not made, as ComfyUI would not load them either.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import contextlib

from load_1b import AnonymousPeak, memory

from janus_core.config import JanusConfig
from janus_core.generation.image import Drawing, draw_codes
from janus_core.memory import peak_drawing, weight_bytes
from janus_core.model.janus import JanusModel
from janus_core.precision import NAMES, Precision
from janus_core.weights.loading import empty_model

NAME = "Janus-Pro-7B"
UNUSED = ("vision_model", "aligner", "language_model.lm_head")


def random_drawer(config: JanusConfig, dtype: str) -> JanusModel:
    """The model with random weights, and none where drawing needs none."""
    model = empty_model(config, Precision.of(dtype))
    for name in UNUSED:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, torch.nn.Identity())
    model.to_empty(device="cpu").eval()
    for name, weight in model.named_parameters():
        weight.requires_grad_(False)
        if weight.dtype == torch.int8:
            weight.random_(-127, 128)
        elif name.endswith("weight_scale"):
            weight.fill_(0.02 / 127)
        elif "norm" in name:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weight.copy_(torch.empty_like(weight, dtype=torch.bfloat16).normal_(0, 0.02))
    return model


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="int8", choices=NAMES)
    parser.add_argument("--steps", type=int, help="draw only so many of the picture's codes")
    arguments = parser.parse_args()
    config = JanusConfig.preset(NAME)
    before = memory("RssAnon")
    model = random_drawer(config, arguments.dtype)
    print(f"weights: {(memory('RssAnon') - before) / 1e9:.2f} GB", flush=True)
    sampler = AnonymousPeak()
    sampler.start()
    grid = config.grid
    codes = grid[0] * grid[1]
    start, done = time.perf_counter(), 0

    def stop(step: int, total: int, ids: torch.Tensor) -> None:
        nonlocal done
        done = step
        if step == arguments.steps:
            raise KeyboardInterrupt

    drawing = Drawing([0, *range(10, 40), 3], 2, codes)
    with contextlib.suppress(KeyboardInterrupt):
        draw_codes(model, drawing, "cpu", stop)
    drew = time.perf_counter() - start
    model.gen_vision_model.decode(torch.zeros(1, codes, dtype=torch.long), grid)
    words = weight_bytes(config, arguments.dtype, ["language_model.model.embed_tokens"])
    estimate = peak_drawing(config, arguments.dtype, 1) + words
    peak = sampler.peak - before
    print(f"{done} codes in {drew:.0f} s; at most {peak / 1e9:.2f} GB, estimated {estimate / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
