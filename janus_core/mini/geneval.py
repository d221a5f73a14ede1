"""GenEval's own files: prompts in, one numbered folder of pictures a prompt out, as its evaluator reads them.

Each prompt's folder holds `metadata.jsonl` (its line of `evaluation_metadata.jsonl`), `samples/00000.png` and so on,
and `grid.png` (github.com/djghosh13/geneval).
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from ..pipeline import Janus


def write_prompt(folder: Path, index: int, metadata: dict, pictures: np.ndarray) -> None:
    """Write one prompt's pictures, uint8 [N, H, W, 3]."""
    home = folder / f"{index:05}"
    (home / "samples").mkdir(parents=True, exist_ok=True)
    (home / "metadata.jsonl").write_text(json.dumps(metadata), encoding="utf-8")
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(home / "samples" / f"{number:05}.png")
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(home / "grid.png")


def draw_prompts(
    janus: Janus,
    prompts: Path,
    folder: Path,
    pictures: int,
    cfg_weight: float,
    temperature: float,
    top_p: float,
    seed: int,
) -> int:
    """Draw every prompt of an `evaluation_metadata.jsonl`; return how many. Raises InputError for a line without one."""
    lines = [line for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    for index, line in enumerate(lines):
        metadata = json.loads(line)
        if "prompt" not in metadata:
            raise InputError(f"{prompts} line {index + 1} has no prompt: give GenEval's evaluation_metadata.jsonl.")
        first = seed + index * pictures
        prompt = metadata["prompt"]
        tokens = janus.generate(
            prompt, pictures, seed=first, cfg_weight=cfg_weight, temperature=temperature, top_p=top_p
        )
        drawn = (janus.decode(tokens) * 255).round().to(torch.uint8).cpu().numpy()
        write_prompt(folder, index, metadata, drawn)
    return len(lines)
