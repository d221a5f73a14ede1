"""Pictures drawn for the evaluation, as the judge reads them."""

from dataclasses import dataclass

import numpy as np
import torch

from ..pipeline import Janus
from ..tokens import ImageTokens


@dataclass(frozen=True)
class DrawingSettings:
    """The settings of `Janus.generate` that the evaluation varies."""

    cfg_weight: float
    temperature: float
    top_p: float

    def draw(self, janus: Janus, prompt: str, count: int = 1, *, seed: int = 0) -> np.ndarray:
        """Pictures of a prompt, uint8 [count, H, W, 3]; picture i has seed + i."""
        tokens = janus.generate(
            prompt, count, seed=seed, cfg_weight=self.cfg_weight, temperature=self.temperature, top_p=self.top_p
        )
        return decode(janus, tokens)


def decode(janus: Janus, tokens: ImageTokens) -> np.ndarray:
    """The tokens' pictures, uint8 [N, H, W, 3]."""
    return (janus.decode(tokens) * 255).round().to(torch.uint8).cpu().numpy()
