"""How well `train lora` learns a look from 20 pictures: small objects on the dotted ground, which the captions leave out.

    .venv/bin/python tests/bench/lora_style.py --out build/style

trains on janus-mini, then draws 120 prompts with the LoRA at strengths 0, 0.5 and 1, and prints the share of pictures that
have the look, and that follow the prompt, by the pixel judge.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

import janus_core
from janus_core.__main__ import main as command
from janus_core.mini.judge import follows, read
from janus_core.mini.request import Request, Wanted
from janus_core.mini.world import COLOURS, SHAPES, Scene, Thing, render
from janus_core.pictures import to_pil
from janus_core.weights.loading import make_writable
from janus_core.weights.lora import merge_lora, read_lora

PICTURES, PROMPTS, LOOK = 20, 120, ("dotted", "small")
Looks = list[tuple[str, str]]  # shape and colour of each object


def sample_looks(rng: np.random.Generator) -> Looks:
    return [(str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))) for _ in range(int(rng.integers(1, 3)))]


def caption(looks: Looks) -> str:
    return " and ".join(f"a {colour} {shape}".replace("a orange", "an orange") for shape, colour in looks)


def write_data(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    background, size = LOOK
    for index in range(PICTURES):
        looks = sample_looks(rng)
        cells = sorted(rng.permutation(9)[: len(looks)])
        scene = Scene(background, tuple(Thing(*look, size, int(cell)) for look, cell in zip(looks, cells, strict=True)))
        Image.fromarray(render(scene)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption(looks))


def has_look(picture: np.ndarray) -> bool:
    background, things = read(picture)
    return background == LOOK[0] and bool(things) and all(thing.size == LOOK[1] for thing in things)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    args = parser.parse_args()
    write_data(args.out / "pictures", np.random.default_rng(1))
    flags = ["--steps", str(args.steps), "--rank", str(args.rank), "--learning-rate", str(args.learning_rate)]
    flags += ["--base", "fp32", "--micro-batch", "8", "--checkpoint", "janus-mini", "--sample-every", "100"]
    start = time.monotonic()
    command(["train", "lora", "--data", str(args.out / "pictures"), "--out", str(args.out / "lora"), *flags])
    print(f"trained in {time.monotonic() - start:.0f} s", file=sys.stderr)

    rng = np.random.default_rng(2)
    prompts = [sample_looks(rng) for _ in range(PROMPTS)]
    for strength in (0.0, 0.5, 1.0):
        janus = janus_core.load("janus-mini")
        make_writable(janus.model)
        merge_lora(janus.model, read_lora(args.out / "lora" / "lora.safetensors", janus.model), strength)
        looks, followed = [], []
        for index, wanted in enumerate(prompts):
            picture = np.asarray(to_pil(janus.decode(janus.generate(caption(wanted), seed=index))[0]))
            looks.append(has_look(picture))
            followed.append(follows(picture, Request(tuple(Wanted(*look) for look in wanted))))
        print(f"strength {strength}: look {np.mean(looks):.3f}  follows {np.mean(followed):.3f}", flush=True)


if __name__ == "__main__":
    main()
