"""The mini's `train` command, and the `training.world.World` that it runs in."""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ..config import JanusConfig
from ..errors import InputError
from ..model.janus import JanusModel
from ..model.vq import VQModel
from ..processing import Processor
from ..training import cli
from ..training.samples import Source
from ..training.stages import ADAPTORS, WITH_LANGUAGE, WITH_VISION, Stage
from ..training.vq import to_pixels
from .code_init import init_codes_from_patches
from .codes import WorldCodes
from .model import new_model, write_layout
from .samples import world_sources
from .siglip import train_siglip
from .world import SIDE, sample_group_sizes, sample_scene, world_pictures

MIN_AGREEMENT = 0.99
SIMPLE_SAMPLES = 80_000  # of stage 2, before the full world
RECIPE = {
    "stage1": Stage(trained=ADAPTORS, learning_rate=5e-4, warm_up=20, steps=40, batch=16, mix=(1, 0, 3)),
    "stage2": Stage(
        trained=WITH_LANGUAGE,
        learning_rate=1.2e-3,
        warm_up=200,
        steps=20_000,
        batch=16,
        micro_batch=4,
        mix=(4, 1, 4),
        decay=0.6,
        ema=0.9998,
    ),
    "stage3": Stage(
        trained=WITH_VISION,
        learning_rate=2e-4,
        warm_up=30,
        steps=1500,
        batch=16,
        micro_batch=4,
        mix=(5, 1, 4),
        decay=1.0,
        ema=0.998,
    ),
}


class MiniWorld:
    """The mini's world and its new model."""

    recipe, stages = "mini", RECIPE
    picture_size = SIDE
    pictures = staticmethod(world_pictures)
    write_layout = staticmethod(write_layout)
    train_siglip = staticmethod(train_siglip)

    def new_model(self, config: JanusConfig, folder: Path, *, seed: int) -> JanusModel:
        model = new_model(config, seed=seed)
        model.gen_vision_model.load_state_dict(load_file(folder / "vq.safetensors"))
        model.vision_model.load_state_dict(load_file(folder / "siglip.safetensors"))
        init_codes_from_patches(
            model, torch.load(folder / "vq_state.pt", weights_only=True, map_location="cpu")["centres"]
        )
        return model

    def sources(self, processor: Processor, vq: VQModel, *, phase: str, seed: int) -> dict[str, Source]:
        @torch.no_grad()
        def encode(pictures: np.ndarray) -> torch.Tensor:
            return vq.encode(to_pixels(pictures).to(vq.quantize.embedding.weight.device))[1]

        codes = WorldCodes(encode)
        rng = np.random.default_rng(seed)
        agreement = codes.agreement([sample_scene(rng, sample_group_sizes(rng)) for _ in range(64)])
        if agreement < MIN_AGREEMENT:
            raise InputError(
                f"The VQ tokenizer encodes the same object differently in different pictures (only {agreement:.1%} agree): "
                "it was not trained on the mini's world, or not long enough, so train it longer, or give --data."
            )
        return world_sources(processor, codes, simple_samples=SIMPLE_SAMPLES if phase == "stage2" else 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the `train` command to argparse."""
    cli.add_arguments(parser, MiniWorld())
