"""Benchmark: captions and pictures of a list, one by one and in a batch, on random weights of a published shape.

    python tests/bench/lists.py captions|pictures [--model Janus-Pro-1B] [--dtype bf16] [--rows 8] [--alone 2] [--tokens 128]
                                [--codes 576] [--rounds 3]

In the venv of `make setup`. The two ways take turns, and the figures are seconds an item: --alone of them one by one, as each
takes the same, and --rows together. No answer ends early. With fewer --codes than a picture has, both ways draw only its
beginning.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from janus_core.batch.drawing import draw_prompts
from janus_core.bench.engine import SPECIAL, Ours
from janus_core.bench.measure import prompt_of, seconds
from janus_core.bench.random_weights import random_model
from janus_core.config import JanusConfig
from janus_core.generation.codes import Drawing
from janus_core.generation.continuous import Waiting, answer_rows
from janus_core.generation.cpu_kernels import fast_layers
from janus_core.generation.sampling import Sampling
from janus_core.precision import FLOATS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("captions", "pictures"))
    parser.add_argument("--model", default="Janus-Pro-1B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bf16", choices=FLOATS)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--alone", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--codes", type=int, default=576)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    device = torch.device(args.device)
    model = random_model(JanusConfig.preset(args.model), device, FLOATS[args.dtype])
    engine, vision = Ours(model, device), model.config.vision
    pixels = torch.zeros(1, 3, vision.image_size, vision.image_size, device=device, dtype=FLOATS[args.dtype])
    question = [*prompt_of(40), *[SPECIAL["image"]] * vision.tokens, *prompt_of(12)]
    prompts = [prompt_of(20 + i) for i in range(args.rows)]

    def captions_one_by_one() -> None:
        for _ in range(args.alone):
            engine.answer(question, pixels, count=args.tokens, token=lambda: None)

    def captions_together() -> None:
        with fast_layers([model.language_model], rows=args.rows, execution=engine.execution):
            answer_rows(
                model,
                iter([Waiting(question, pixels, 0) for _ in range(args.rows)]),
                engine.execution,
                rows=args.rows,
                longest=len(question),
                image_id=SPECIAL["image"],
                eos=-1,
                max_new_tokens=args.tokens,
                sampling=Sampling(0.0),
                finished=lambda _: None,
            )

    def pictures_one_by_one() -> None:
        for prompt in prompts[: args.alone]:
            engine.draw(prompt, steps=args.codes, count=1, token=lambda: None)

    def pictures_together() -> None:
        drawings = [Drawing(prompt=prompt, pad=SPECIAL["pad"], steps=args.codes) for prompt in prompts]
        with fast_layers(model.drawing_parts, rows=2 * args.rows, execution=engine.execution):
            draw_prompts(model, drawings, engine.execution)

    ways = {
        "captions": (captions_one_by_one, captions_together, f"captions of {args.tokens} tokens"),
        "pictures": (pictures_one_by_one, pictures_together, f"pictures, {args.codes} codes"),
    }
    one_by_one, together, unit = ways[args.what]
    found = [
        (seconds(one_by_one, device) / args.alone, seconds(together, device) / args.rows) for _ in range(args.rounds)
    ]
    for name, times in zip(("one by one", f"{args.rows} together"), zip(*found, strict=True), strict=True):
        print(f"{unit}, {name}: {statistics.median(times):.2f} s each ({min(times):.2f} to {max(times):.2f})")
    ratios = [one / other for one, other in found]
    print(f"{unit}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
