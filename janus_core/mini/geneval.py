"""GenEval's files: prompts in; for each prompt a numbered folder of pictures out, as its evaluator reads them.

Each prompt's folder holds `metadata.jsonl` (its line of `evaluation_metadata.jsonl`), `samples/00000.png` and so on,
and `grid.png` (github.com/djghosh13/geneval).
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from ..pipeline import Janus
from .drawing import DrawingSettings


def write_prompt(folder: Path, index: int, *, metadata: dict, pictures: np.ndarray) -> None:
    """Write one prompt's pictures, uint8 [N, H, W, 3]."""
    prompt_folder = folder / f"{index:05}"
    (prompt_folder / "samples").mkdir(parents=True, exist_ok=True)
    (prompt_folder / "metadata.jsonl").write_text(json.dumps(metadata), encoding="utf-8")
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(prompt_folder / "samples" / f"{number:05}.png")
    Image.fromarray(np.concatenate(list(pictures), axis=1)).save(prompt_folder / "grid.png")


def draw_prompts(janus: Janus, prompts: Path, *, folder: Path, settings: DrawingSettings) -> int:
    """Draw every prompt of an `evaluation_metadata.jsonl` and return their number.

    Raises InputError for a line that has no prompt.
    """
    lines = [line for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    for index, line in enumerate(lines):
        metadata = json.loads(line)
        if "prompt" not in metadata:
            raise InputError(f"{prompts} line {index + 1} has no prompt: give GenEval's evaluation_metadata.jsonl.")
        write_prompt(folder, index, metadata=metadata, pictures=settings.draw(janus, metadata["prompt"], index))
    return len(lines)
