"""What `python -m janus_core train` needs of the mini: implements `training.world.World`."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ..config import JanusConfig
from ..errors import InputError
from ..model.janus import JanusModel
from ..model.vq import VQModel
from ..processing import Processor
from ..training.samples import Source
from ..training.vq import to_pixels
from .code_init import init_codes_from_patches
from .codes import WorldCodes
from .model import new_model, write_layout
from .samples import world_sources
from .siglip import train_siglip
from .world import SIDE, sample_group_sizes, sample_scene, world_pictures

MIN_AGREEMENT = 0.99
SIMPLE_SAMPLES = 80_000  # of stage 2, before the whole world comes in


class MiniWorld:
    """The mini's world and its new model."""

    picture_size = SIDE
    pictures = staticmethod(world_pictures)
    write_layout = staticmethod(write_layout)
    train_siglip = staticmethod(train_siglip)

    def new_model(self, config: JanusConfig, folder: Path, *, seed: int) -> JanusModel:
        model = new_model(config, seed=seed)
        model.gen_vision_model.load_state_dict(load_file(folder / "vq.safetensors"))
        model.vision_model.load_state_dict(load_file(folder / "siglip.safetensors"))
        vq_state = torch.load(folder / "vq_state.pt", weights_only=True, map_location="cpu")
        init_codes_from_patches(model, vq_state["centres"])
        return model

    def sources(self, processor: Processor, vq: VQModel, phase: str, *, seed: int) -> dict[str, Source]:
        device = vq.quantize.embedding.weight.device

        @torch.no_grad()
        def encode(pictures: np.ndarray) -> torch.Tensor:
            return vq.encode(to_pixels(pictures).to(device))[1]

        codes = WorldCodes(encode)
        rng = np.random.default_rng(seed)
        agreement = codes.agreement([sample_scene(rng, sample_group_sizes(rng)) for _ in range(64)])
        if agreement < MIN_AGREEMENT:
            raise InputError(
                f"The VQ tokenizer gives an object other codes in other pictures (only {agreement:.1%} agree): "
                "it was not trained on the mini's world, or not long enough; train it on, or give --data."
            )
        return world_sources(processor, codes, simple_samples=SIMPLE_SAMPLES if phase == "stage2" else 0)
