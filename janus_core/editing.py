"""Edit pictures in words, as Janus-4o was trained to (Chen et al. 2025, ShareGPT-4o-Image; the numbers are of its own code).

The model is shown the picture twice: as it reads pictures and as it draws them. Three rows are drawn for each picture:

1. `full` has both.
2. `part` has pads in place of the second, and so knows what is in the picture, but not its every code.
3. `uncond` has pads in place of all.

cond = (full + w * part) / (1 + w) with the image weight w, then guidance as ever: uncond + cfg_weight * (cond - uncond).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import memory
from .errors import InputError
from .generation.codes import Drawing
from .generation.image import Progress
from .memory import Need
from .pictures import check_images
from .pipeline import Janus
from .tokens import ImageTokens

READING = ("Understanding", "PictureHead", "VQ")  # of memory.PARTS


@dataclass(frozen=True)
class Shown:
    """Pictures as a model is shown them: `seen` as it reads them, `drawn` as it draws them, both [N, tokens, D]."""

    seen: Tensor
    drawn: Tensor


def edit(
    janus: Janus,
    images: Tensor,
    instruction: str,
    *,
    seed: int = 0,
    image_weight: float = 5.0,
    force: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> ImageTokens:
    """Pictures float [N, H, W, 3] in 0..1 of any size, changed as `instruction` says; picture i has seed + i.

    `image_weight` is how many times as much the picture's content counts as its every code; `settings` and `progress` are
    those of `Janus.generate`. The pictures are seen as SigLIP sees them: scaled to the model's size, padded to a square.
    Raises InputError for weights that were not trained for it unless `force`, an empty or too long instruction, bad
    pictures, and settings out of range; CheckpointError if the model computes NaN.
    """
    check_editing(janus, images, instruction, force=force)
    drawing = editing_of(janus, show(janus, images), instruction, seed=seed, image_weight=image_weight, **settings)
    return janus.draw(drawing, progress)


def check_editing(janus: Janus, images: Tensor, instruction: str, *, force: bool) -> None:
    """Raise InputError as `edit` does, before anything is computed."""
    if not (janus.processor.dialect.edits or force):
        raise InputError(
            "These weights were not trained to edit pictures, and those of Janus-4o-7B were: choose it in Load Janus, or its "
            "dialect if this is a copy of it, or force the edit to see what comes."
        )
    if not instruction.strip():
        raise InputError("The instruction is empty: say what to change.")
    check_images(images)


@torch.no_grad()
def show(janus: Janus, images: Tensor) -> Shown:
    """Read pictures float [N, H, W, 3], one at a time."""
    seen, drawn = [], []
    cure = "edit fewer at once"
    with janus.working(f"reading a batch of {len(images)}", cure, [], rows=1):
        for image in images:
            pixels = janus.processor.pixels([image]).to(janus.device)
            seen.append(janus.model.embed_images(pixels.to(janus.dtype)))
            codes = janus.model.gen_vision_model.encode(pixels.to(janus.vq_dtype))[1]
            drawn.append(janus.model.embed_codes(codes))
    return Shown(torch.cat(seen), torch.cat(drawn))


def showing_need(janus: Janus, count: int) -> Need:
    """What `show` needs on the device for `count` pictures."""
    config, precision = janus.model.config, janus.precision
    sees = memory.answering_bytes(config, precision, rows=1, prompt=config.vision.tokens, new=1, pictures=1)
    tokens = config.vision.tokens + config.grid[0] * config.grid[1]
    shown = count * tokens * config.llama.hidden_size * precision.compute.itemsize
    return Need(
        READING, 2 * shown + max(sees, memory.decoding_bytes(config, precision, pictures=1))
    )  # in parts, joined


def editing_of(janus: Janus, shown: Shown, instruction: str, *, image_weight: float = 5.0, **settings: Any) -> Drawing:
    """The drawing of the edited pictures. `settings` are those of `Janus.drawing_of`. Raises InputError as that does."""
    processor, count = janus.processor, len(shown.seen)
    if not 0 <= image_weight <= 100:
        raise InputError(f"The image weight is {image_weight}: give a number from 0 to 100, usually 5.")
    full = processor.editing_prompt(instruction, shown.drawn.shape[1])
    part = processor.editing_prompt(instruction, shown.drawn.shape[1], hidden=True)
    both = torch.cat((shown.seen, shown.drawn.to(shown.seen)), dim=1)  # in the order of the places
    features = [both.flatten(0, 1)] + ([shown.seen.flatten(0, 1)] if image_weight else [])
    return janus.drawing_of(
        instruction,
        count,
        prompts=(full,) * count,
        partial=(part,) * count if image_weight else (),
        partial_weight=image_weight,
        features=torch.cat(features),
        **settings,
    )
