"""The jacobi sampler on trained weights: its passes and seconds, and whether its pictures are the same."""

from __future__ import annotations

import time
from collections import Counter

import torch
from torch import Tensor

from ..pipeline import DEFAULT_CHECKPOINT, load
from .table import Row

WINDOWS = (4, 8, 16)
PICTURES = 16
PROMPTS = ("a red circle", "three green squares", "a blue triangle in the top left", "two yellow circles")


def jacobi(device: torch.device) -> list[Row]:
    """Three rows for each window: seconds a picture, passes a code, and the share of pictures identical to sequential's.

    PICTURES pictures of the embedded checkpoint, one at a time, in float32 at CFG weight 5 and temperature 1.
    """
    janus = load(DEFAULT_CHECKPOINT, device, torch.float32)
    codes = janus.model.config.grid[0] * janus.model.config.grid[1]
    seconds = dict.fromkeys((0, *WINDOWS), 0.0)
    passes: Counter[int] = Counter()
    same: Counter[int] = Counter()
    janus.generate(PROMPTS[0])  # warms up
    for seed in range(PICTURES):
        drawn: dict[int, Tensor] = {}
        for window in (0, *WINDOWS):
            sampler = {"sampler": "jacobi", "window": window} if window else {}
            count = lambda step, total, ids, window=window: passes.update([window])
            start = time.perf_counter()
            drawn[window] = janus.generate(PROMPTS[seed % len(PROMPTS)], seed=seed, progress=count, **sampler).ids
            seconds[window] += time.perf_counter() - start
            same[window] += torch.equal(drawn[window], drawn[0])
    rows = []
    for window in WINDOWS:
        name = f"jacobi on {DEFAULT_CHECKPOINT}, window {window}"
        rows += [
            Row(name, "s", {"sequential": seconds[0] / PICTURES, "ours": seconds[window] / PICTURES}),
            Row(name, "passes a code", {"sequential": 1.0, "ours": passes[window] / PICTURES / codes}),
            Row(name, "identical pictures", {"sequential": 1.0, "ours": same[window] / PICTURES}),
        ]
    return rows
