"""Trains the mini's SigLIP: it learns to name the properties of the object at each patch.

DeepSeek starts from a SigLIP trained on web-scale pairs of pictures and captions, and keeps it frozen in stages 1 and
2. The mini has no such model. Its SigLIP learns from the world itself, by dense classification: a linear layer, dropped
afterwards, reads from each patch's feature which object its cell holds, on which background, and at which place.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VisionConfig
from ..model.siglip import VisionModel
from ..training.loop import ADAM_BETAS, learning_rate_at, optimizer_step
from ..training.progress import RunLog
from ..training.stages import with_settings
from ..training.vq import to_pixels
from ..weights.loading import make_writable
from ..weights.saving import save_tensors
from .world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, render, sample_mixed_scene

PROPERTIES: dict[str, tuple[str | None, ...]] = {
    "shape": (*SHAPES, None),
    "colour": (*COLOURS, None),
    "size": (*SIZES, None),
    "ground": BACKGROUNDS,
    "place": PLACES,
}


@dataclass(frozen=True)
class SigLIPRecipe:
    """How SigLIP is trained. `warm_up` is in steps; the learning rate falls to 0 over the second half."""

    steps: int = 600
    batch: int = 32
    learning_rate: float = 1e-3
    warm_up: int = 100
    seed: int = 0


def labels_of(scene: Scene) -> np.ndarray:
    """The class of each property at each patch, int64 [5, 36]."""
    cells: list[list[str | None]] = [[None, None, None, scene.background, place] for place in PLACES]
    for thing in scene.things:
        cells[thing.cell][:3] = thing.shape, thing.colour, thing.size
    classes = [[options.index(value) for options, value in zip(PROPERTIES.values(), c, strict=True)] for c in cells]
    return np.array(classes, np.int64).T.reshape(-1, 3, 3).repeat(2, 1).repeat(2, 2).reshape(len(PROPERTIES), -1)


def train_siglip(
    config: VisionConfig, settings: dict[str, Any], *, folder: Path, device: str, start: VisionModel | None
) -> VisionModel:
    """Train an encoder for the mini's world, a new one or `start`; `settings` are changes to SigLIPRecipe.

    Writes `siglip.safetensors`, `siglip.csv` and `siglip.png` to `folder`. Raises InputError for an unknown setting.
    """
    recipe = with_settings(SigLIPRecipe(), "siglip", settings)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = (start or VisionModel(config, nn, {})).to(device)
    make_writable(model).requires_grad_(True)
    if start is None:
        nn.init.normal_(model.vision_tower.pos_embed, std=0.2)
    sizes = [len(classes) for classes in PROPERTIES.values()]
    classifier = nn.Linear(config.width, sum(sizes)).to(device)
    optimizer = torch.optim.AdamW([*model.parameters(), *classifier.parameters()], betas=ADAM_BETAS, weight_decay=0.0)
    log = RunLog(folder, "siglip", ("loss", *PROPERTIES))
    for step in range(1, recipe.steps + 1):
        scenes = [sample_mixed_scene(rng, crowded=0.3) for _ in range(recipe.batch)]
        pixels = to_pixels(np.stack([render(scene) for scene in scenes])).to(device)
        labels = torch.from_numpy(np.stack([labels_of(scene) for scene in scenes])).to(device)  # [batch, 5, 36]
        logits = classifier(model(pixels)).split(sizes, dim=-1)  # 5 of [batch, 36, classes]
        loss: Tensor = torch.stack(
            [F.cross_entropy(part.flatten(0, 1), labels[:, i].flatten()) for i, part in enumerate(logits)]
        ).sum()
        loss.backward()
        rate = learning_rate_at(
            step - 1, peak=recipe.learning_rate, warm_up=recipe.warm_up, steps=recipe.steps, decay=0.5
        )
        optimizer_step(optimizer, rate)
        if step % 50 == 0:
            right = {
                name: (part.argmax(-1) == label).float().mean().item()
                for name, part, label in zip(PROPERTIES, logits, labels.unbind(1), strict=True)
            }
            log.report(step, recipe.steps, {"loss": loss.item()} | right)
    log.draw()
    save_tensors(model.state_dict(), folder / "siglip.safetensors")
    return model
