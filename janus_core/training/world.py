"""What training needs beside the user's own data and checkpoint: a new model, and a world that samples are drawn from.

The command line passes an implementation in.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..config import JanusConfig, VisionConfig
from ..model.janus import JanusModel
from ..model.siglip import VisionModel
from ..model.vq import VQModel
from ..processing import Processor
from .samples import Source
from .stages import Stage


class World(Protocol):
    """A world of drawn pictures and the model made for it.

    `recipe` is the name of the world's own `stages`. Pictures are square, with sides of `picture_size` pixels.
    """

    recipe: str
    stages: dict[str, Stage]
    picture_size: int

    def write_layout(self, folder: Path) -> JanusConfig:
        """Write every file of a new checkpoint but its weights; return its config."""
        ...

    def new_model(self, config: JanusConfig, folder: Path, *, seed: int) -> JanusModel:
        """A new model around the encoders that `train vq` and `train siglip` have left in `folder`."""
        ...

    def pictures(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Pictures for the VQ tokenizer, uint8 [count, picture_size, picture_size, 3]."""
        ...

    def sources(self, processor: Processor, vq: VQModel, *, phase: str, seed: int) -> dict[str, Source]:
        """Sources of all kinds of samples. Raises InputError for a VQ tokenizer that was not trained on this world."""
        ...

    def train_siglip(
        self, config: VisionConfig, settings: dict[str, Any], *, folder: Path, device: str, start: VisionModel | None
    ) -> VisionModel:
        """Train SigLIP, a new one or `start`, and write `siglip.safetensors`. Raises InputError for unknown settings."""
        ...
