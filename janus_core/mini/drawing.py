"""Pictures drawn for the evaluation, as the judge reads them."""

from dataclasses import dataclass

import numpy as np

from ..pictures import to_uint8
from ..pipeline import Janus
from ..tokens import ImageTokens


@dataclass(frozen=True, kw_only=True)
class DrawingSettings:
    """How the evaluation draws: the pictures of a prompt, the first seed, and the settings of `Janus.generate`."""

    pictures: int
    seed: int
    cfg_weight: float
    temperature: float | None
    top_p: float
    min_p: float | None

    def draw(self, janus: Janus, prompt: str, index: int = 0) -> np.ndarray:
        """The pictures of a prompt, uint8 [pictures, H, W, 3]; each `index` has seeds of its own."""
        return decode(
            janus,
            janus.generate(
                prompt,
                self.pictures,
                seed=self.seed + index * self.pictures,
                cfg_weight=self.cfg_weight,
                temperature=self.temperature,
                top_p=self.top_p,
                min_p=self.min_p,
            ),
        )


def decode(janus: Janus, tokens: ImageTokens) -> np.ndarray:
    """The tokens' pictures, uint8 [N, H, W, 3]."""
    return to_uint8(janus.decode(tokens)).cpu().numpy()
