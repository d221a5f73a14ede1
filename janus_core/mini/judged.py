"""Scores of a Janus as its own judge: near misses, picking the best of several, and candidates dropped half-way."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..drawing_best import draw_best
from ..judging import YES, best_first, matches, unfinished
from ..pictures import from_uint8
from ..pipeline import Janus
from .drawing import decode
from .eval_prompts import CATEGORIES, Prompt, choose_prompts
from .judge import follows
from .matching import MISSES, near_miss
from .prompts import drawing_prompt
from .world import Scene, render, sample_group_sizes, sample_scene

# Drawn plainly, so that some pictures are wrong.
SETTINGS: dict[str, Any] = {"cfg_weight": 1.0, "temperature": 1.0, "min_p": 0.0}
PICTURES, CANDIDATES, TRIES = 8, 4, 8
BINS = 10


def score_judging(janus: Janus, cases: int) -> dict[str, Any]:
    """All of this file's scores, of `cases` cases each."""
    prompts = choose_prompts(2 * -(-cases // (2 * len(CATEGORIES))))
    return _near_misses(janus, cases) | _picking(janus, prompts) | _trying(janus, prompts)


def _near_misses(janus: Janus, cases: int) -> dict[str, Any]:
    """Pictures of scenes, half of them with held-out combinations, each under a prompt it follows and under a near miss."""
    rng = np.random.default_rng(11)
    right: dict[str, list[bool]] = defaultdict(list)
    chances: list[float] = []
    truths: list[bool] = []
    for case in range(cases):
        kind = tuple(MISSES)[case % len(MISSES)]
        scene, miss = _scene_with_near_miss(kind, rng, held_out=bool(case % 2))
        picture = from_uint8(render(scene))[None]
        for name, prompt, truth in (("a match", drawing_prompt(scene, rng)[0], True), (kind, miss, False)):
            chance = float(matches(janus, picture, prompt))
            right[name].append((chance > YES) == truth)
            chances.append(chance)
            truths.append(truth)
    misses = [answer for kind in MISSES for answer in right[kind]]
    return {
        "check, near misses": _mean(misses),
        "check, matches": _mean(right["a match"]),
        "check, by kind of miss": {kind: _mean(right[kind]) for kind in MISSES},
        "check, calibration error": calibration_error(np.array(chances), np.array(truths)),
    }


def _scene_with_near_miss(kind: str, rng: np.random.Generator, *, held_out: bool) -> tuple[Scene, str]:
    """A scene and a near miss of this kind, which many scenes do not have."""
    while True:
        scene = sample_scene(rng, sample_group_sizes(rng), held_out=held_out)
        if miss := near_miss(kind, scene, rng, held_out=True):
            return scene, miss[0]


def calibration_error(chances: np.ndarray, truths: np.ndarray) -> float:
    """How far probabilities are from the shares that came true, in BINS equal bins, weighted by their cases."""
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    gaps = [abs(chances[bins == i].mean() - truths[bins == i].mean()) * (bins == i).sum() for i in np.unique(bins)]
    return float(np.sum(gaps) / len(chances))


def _picking(janus: Janus, prompts: list[Prompt]) -> dict[str, Any]:
    """Of PICTURES of each prompt, and of CANDIDATES of which all but one or two are dropped after some rows."""
    height, width = janus.model.config.grid
    scores: dict[str, list[tuple[str, float]]] = defaultdict(list)
    judged: list[tuple[np.ndarray, np.ndarray]] = []
    for index, prompt in enumerate(prompts):
        tokens = janus.generate(prompt.text, PICTURES, seed=index * PICTURES, **SETTINGS)
        truths = [follows(picture, prompt.request) for picture in decode(janus, tokens)]
        chances = matches(janus, janus.decode(tokens), prompt.text)
        judged.append((chances.numpy(), np.array(truths)))

        def note(name: str, share: float, category: str = prompt.category) -> None:
            scores[name].append((category, float(share)))

        note(f"mean of {PICTURES}", _mean(truths))
        note(f"any of {PICTURES}", any(truths))
        note(f"pick best of {PICTURES}", truths[best_first(chances, 1)[0]])
        note(f"pick best of {CANDIDATES}", truths[best_first(chances[:CANDIDATES], 1)[0]])
        for rows in range(1, height):
            promise = matches(janus, unfinished(janus, tokens.ids[:CANDIDATES, : rows * width]), prompt.text)
            for kept in (1, 2):
                note(f"{kept} of {CANDIDATES} after {rows} rows", truths[_survivor(promise, chances, kept)])
    shares = {
        f"codes of {kept} of {CANDIDATES} after {rows} rows": (CANDIDATES * rows + kept * (height - rows))
        / (CANDIDATES * height)
        for kept in (1, 2)
        for rows in range(1, height)
    }
    chances, truths = (np.concatenate(parts) for parts in zip(*judged, strict=True))
    return {
        **{name: _by_category(values) for name, values in scores.items()},
        **shares,
        "check of drawn pictures": _mean((chances > YES) == truths),
        "check of drawn pictures, calibration error": calibration_error(chances, truths),
    }


def _survivor(promise: Tensor, chances: Tensor, kept: int) -> int:
    """The candidate that is chosen if the `kept` of most promise are finished."""
    left = torch.tensor(sorted(best_first(promise, kept)))
    return int(left[best_first(chances[left], 1)[0]])


def _trying(janus: Janus, prompts: list[Prompt]) -> dict[str, Any]:
    """Janus Draw Best: tries until the model says yes."""
    right, tries, codes, yes = [], [], [], []
    for index, prompt in enumerate(prompts):
        seed = 10**6 + index * CANDIDATES * TRIES
        best = draw_best(janus, prompt.text, seed=seed, candidates=CANDIDATES, tries=TRIES, **SETTINGS)
        right.append((prompt.category, float(follows(decode(janus, best.tokens)[0], prompt.request))))
        tries.append(len(best.candidates) / CANDIDATES)
        codes.append(best.codes / best.tokens.ids.numel())
        yes.append(best.score > YES)
    return {
        "draw best": _by_category(right),
        "draw best, tries": _mean(tries),
        "draw best, pictures' worth of codes": _mean(codes),
        "draw best, ends with yes": _mean(yes),
    }


def _by_category(values: list[tuple[str, float]]) -> float:
    """The mean of the categories' means."""
    return _mean([_mean([score for name, score in values if name == category]) for category in CATEGORIES])


def _mean(values: Any) -> float:
    return float(np.mean(values))
