"""The jacobi sampler on trained weights: its passes and seconds, and whether its pictures are the same."""

import math
import time
from collections import Counter

import torch
from torch import Tensor

from ..checkpoints import DEFAULT_CHECKPOINT, load
from .dtypes import PROMPTS
from .table import Row

WINDOWS = (4, 8, 16)
PICTURES = 16


def jacobi(device: torch.device) -> list[Row]:
    """Three rows for each window: seconds a picture, passes a code, and the share of pictures identical to sequential's.

    PICTURES pictures of the embedded checkpoint, one at a time, in float32 at CFG weight 5 and temperature 1.
    """
    janus = load(DEFAULT_CHECKPOINT, device, torch.float32)
    codes = math.prod(janus.model.config.grid)
    seconds = dict.fromkeys((0, *WINDOWS), 0.0)
    passes: Counter[int] = Counter()
    same: Counter[int] = Counter()
    janus.generate(PROMPTS[0])  # warms up
    for seed in range(PICTURES):
        drawn: dict[int, Tensor] = {}
        for window in (0, *WINDOWS):
            start = time.perf_counter()
            drawn[window] = janus.generate(
                PROMPTS[seed % len(PROMPTS)],
                seed=seed,
                progress=lambda *_, window=window: passes.update([window]),
                sampler="jacobi" if window else "sequential",
                window=window or 1,
            ).ids
            seconds[window] += time.perf_counter() - start
            same[window] += torch.equal(drawn[window], drawn[0])
    return [
        Row(f"jacobi on {DEFAULT_CHECKPOINT}, window {window}", unit, {"sequential": sequential, "ours": ours})
        for window in WINDOWS
        for unit, sequential, ours in (
            ("s", seconds[0] / PICTURES, seconds[window] / PICTURES),
            ("passes a code", 1.0, passes[window] / PICTURES / codes),
            ("identical pictures", 1.0, same[window] / PICTURES),
        )
    ]
