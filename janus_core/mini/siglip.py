"""The first weights of the mini's SigLIP: it learns to name what each of its patches belongs to.

DeepSeek starts from a SigLIP trained on web-scale pairs of pictures and captions, and stages 1 and 2 keep it frozen.
The mini has no such model to start from, so its eye is trained here on the world itself, by dense classification:
from each patch's feature a throw-away linear layer says which object its cell holds, on which ground, and at which place.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VisionConfig
from ..model.siglip import VisionModel
from ..training.progress import RunLog
from ..training.vq import learning_rate_at, to_pixels
from .captions import draw_groups
from .world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, render, sample_crowded_scene, sample_scene

QUESTIONS = {
    "shape": (*SHAPES, None),
    "colour": (*COLOURS, None),
    "size": (*SIZES, None),
    "ground": BACKGROUNDS,
    "place": PLACES,
}


@dataclass(frozen=True)
class SigLIPRecipe:
    steps: int = 600
    batch: int = 32
    learning_rate: float = 1e-3
    warm_up: int = 100
    seed: int = 0


def labels_of(scene: Scene) -> np.ndarray:
    """What a scene holds at each patch: indices into each entry of QUESTIONS, [5, 36]."""
    cells = np.empty((len(QUESTIONS), 9), np.int64)
    cells[:4] = [[len(SHAPES)], [len(COLOURS)], [len(SIZES)], [BACKGROUNDS.index(scene.background)]]
    cells[4] = range(9)
    for thing in scene.things:
        cells[:3, thing.cell] = [
            SHAPES.index(thing.shape),
            tuple(COLOURS).index(thing.colour),
            tuple(SIZES).index(thing.size),
        ]
    return cells.reshape(-1, 3, 3).repeat(2, 1).repeat(2, 2).reshape(len(QUESTIONS), -1)


def train_siglip(
    config: VisionConfig, recipe: SigLIPRecipe, folder: Path, device: str = "cpu", start: VisionModel | None = None
) -> VisionModel:
    """Train an encoder for the mini's world, from nothing or on from `start`.

    Leaves `siglip.safetensors`, `siglip.csv` and `siglip.png` in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model = (start or VisionModel(config, nn, {})).requires_grad_(True).to(device)
    if start is None:
        nn.init.normal_(model.vision_tower.pos_embed, std=0.2)
    namer = nn.Linear(config.width, sum(len(options) for options in QUESTIONS.values())).to(device)
    trained = [*model.parameters(), *namer.parameters()]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.95), weight_decay=0.0)
    log = RunLog(folder, "siglip", ("loss", *QUESTIONS))
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, recipe.learning_rate, recipe.warm_up, recipe.steps, 0.5)
        scenes = [
            sample_crowded_scene(rng) if rng.random() < 0.3 else sample_scene(rng, draw_groups(rng))
            for _ in range(recipe.batch)
        ]
        pixels = to_pixels(np.stack([render(scene) for scene in scenes])).to(device)
        labels = torch.from_numpy(np.stack([labels_of(scene) for scene in scenes])).to(device)
        parts = namer(model(pixels)).split([len(options) for options in QUESTIONS.values()], dim=-1)
        losses = [F.cross_entropy(part.flatten(0, 1), labels[:, i].flatten()) for i, part in enumerate(parts)]
        loss: Tensor = torch.stack(losses).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            named = enumerate(zip(QUESTIONS, parts, strict=True))
            right = {q: (part.argmax(-1) == labels[:, i]).float().mean().item() for i, (q, part) in named}
            log.report(step + 1, recipe.steps, {"loss": loss.item()} | right)
    log.draw()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "siglip.safetensors")
    return model
