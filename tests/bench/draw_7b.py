"""Benchmark: the memory that one picture of a Janus-Pro-7B of random weights takes on a CPU, beside the estimate.

    python tests/bench/draw_7b.py [--dtype int8] [--steps 576]    (Linux: memory is read from /proc)

It has no weights that drawing never uses (SigLIP, the text head): ComfyUI would not load them either.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from anonymous_peak import AnonymousPeak

from janus_core.bench.engine import SPECIAL
from janus_core.bench.loading import process_memory
from janus_core.bench.measure import prompt_of
from janus_core.bench.random_weights import fill
from janus_core.config import JanusConfig
from janus_core.generation.codes import Drawing
from janus_core.generation.execution import Execution
from janus_core.generation.image import draw_codes
from janus_core.memory import total_drawing_bytes, weight_bytes
from janus_core.model.janus import JanusModel
from janus_core.precision import NAMES, Precision
from janus_core.weights.loading import empty_model

NAME = "Janus-Pro-7B"
UNUSED = ("vision_model", "aligner", "language_model.lm_head")


def random_drawer(config: JanusConfig, dtype: str) -> JanusModel:
    """A model of random weights without the UNUSED ones."""
    model = empty_model(config, Precision.of(dtype))
    for name in UNUSED:
        model.set_submodule(name, torch.nn.Identity())
    model.to_empty(device="cpu").requires_grad_(False).eval()
    fill(model.named_parameters())
    return model


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="int8", choices=NAMES)
    parser.add_argument("--steps", type=int, help="stop after this many of the picture's codes")
    arguments = parser.parse_args()
    config = JanusConfig.preset(NAME)
    before = process_memory("RssAnon")
    model = random_drawer(config, arguments.dtype)
    print(f"weights: {(process_memory('RssAnon') - before) / 1e9:.2f} GB", flush=True)
    peak = AnonymousPeak()
    peak.start()
    h, w = config.grid
    start, done = time.perf_counter(), 0

    def stop(step: int, total: int, ids: torch.Tensor) -> None:
        nonlocal done
        done = step
        if step == arguments.steps:
            raise KeyboardInterrupt

    drawing = Drawing(prompt=prompt_of(32), pad=SPECIAL["pad"], steps=h * w)
    with contextlib.suppress(KeyboardInterrupt):
        draw_codes(model, drawing, Execution(torch.device("cpu")), stop)
    drew = time.perf_counter() - start
    model.gen_vision_model.decode(torch.zeros(1, h * w, dtype=torch.long), (h, w))
    embeddings = weight_bytes(config, arguments.dtype, ["language_model.model.embed_tokens"])
    estimate = total_drawing_bytes(config, arguments.dtype, 1) + embeddings
    most = peak.bytes - before
    print(f"{done} codes in {drew:.0f} s; at most {most / 1e9:.2f} GB, estimated {estimate / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
