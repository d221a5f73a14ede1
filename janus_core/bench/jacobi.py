"""Jacobi decoding on weights that have learned something: how few passes it takes, how long, and whether it errs."""

from __future__ import annotations

import time
from collections import Counter

import torch
from torch import Tensor

from ..pipeline import DEFAULT_CHECKPOINT, load
from .measure import Row

WINDOWS = (4, 8, 16)
PICTURES = 16
PROMPTS = ("a red circle", "three green squares", "a blue triangle in the top left", "two yellow circles")


def jacobi(device: torch.device) -> list[Row]:
    """Over PICTURES single pictures of the embedded checkpoint in float32 at CFG weight 5 and temperature 1, by window:

    seconds a picture beside the sequential sampler, passes a code, and the share of pictures that are identical.
    """
    janus = load(DEFAULT_CHECKPOINT, device, torch.float32)
    codes = janus.model.config.grid[0] * janus.model.config.grid[1]
    taken = dict.fromkeys((0, *WINDOWS), 0.0)
    passes: Counter[int] = Counter()
    same: Counter[int] = Counter()
    janus.generate(PROMPTS[0])  # what is made once is not measured
    for seed in range(PICTURES):
        drawn: dict[int, Tensor] = {}
        for window in (0, *WINDOWS):
            sampler = {"sampler": "jacobi", "window": window} if window else {}
            count = lambda step, total, ids, window=window: passes.update([window])
            start = time.perf_counter()
            drawn[window] = janus.generate(PROMPTS[seed % len(PROMPTS)], seed=seed, progress=count, **sampler).ids
            taken[window] += time.perf_counter() - start
            same[window] += bool(torch.equal(drawn[window], drawn[0]))
    rows = []
    for window in WINDOWS:
        name = f"jacobi on {DEFAULT_CHECKPOINT}, window {window}"
        rows += [
            Row(name, "s", {"sequential": taken[0] / PICTURES, "ours": taken[window] / PICTURES}),
            Row(name, "passes a code", {"sequential": 1.0, "ours": passes[window] / PICTURES / codes}),
            Row(name, "identical pictures", {"sequential": 1.0, "ours": same[window] / PICTURES}),
        ]
    return rows
