"""Scores of tokens as a canvas: repainted and continued pictures, variations, and pictures that are encoded again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..pictures import from_uint8
from ..pipeline import Janus
from ..repainting import repaint, vary
from ..tokens import ImageTokens
from .drawing import decode
from .eval_prompts import choose_prompts
from .judge import follows
from .prompts import describe_scene
from .request import Request, Wanted
from .world import Scene, render, sample_scene

CODES_A_CELL = 2  # on each side
CANDIDATES = (1, 8)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def score_canvas(janus: Janus, cases: int) -> dict[str, float | dict[str, float]]:
    """Shares of `cases` that are right; of variations the share of codes that stay, by strength."""
    return {**_repaint(janus, cases), **_drawn(janus, cases)}


def _repaint(janus: Janus, cases: int) -> dict[str, float | dict[str, float]]:
    """A second object is painted into an empty cell of a rendered picture: it is there, and all else is as before."""
    right: dict[int, int] = dict.fromkeys(CANDIDATES, 0)
    changes = []
    for case in range(cases):
        rng = np.random.default_rng([7, case])
        scene = sample_scene(rng, (1, 1), held_out=bool(case % 2))
        there, new = (scene.things[i] for i in rng.permutation(2))
        before = janus.encode(from_uint8(render(Scene(scene.background, (there,))))[None])
        h, w = before.grid
        mask = torch.zeros(h, w, dtype=torch.bool)
        top, left = (CODES_A_CELL * part for part in divmod(new.cell, 3))
        mask[top : top + CODES_A_CELL, left : left + CODES_A_CELL] = True
        prompt = describe_scene(scene, rng)
        request = Request((there, Wanted(new.shape, new.colour, cell=new.cell)), background=scene.background)
        for count in CANDIDATES:
            after = repaint(janus, before, mask, prompt, candidates=count, seed=case)
            kept = torch.equal(after.ids[0, ~mask.flatten()], before.ids[0, ~mask.flatten()])
            right[count] += kept and follows(decode(janus, after)[0], request)
            if count == 1:
                changes.append(_changes(janus.decode(before)[0], janus.decode(after)[0], mask))
    return {
        **{f"repaint, {count} candidate{'s' * (count > 1)}": n / cases for count, n in right.items()},
        "pixels beyond which the median change is under 1 of 255": _reach(changes),
    }


def _changes(before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """Of each pixel outside a mask of codes: its distance from the mask, and its largest change, of 255; [2, pixels]."""
    side = before.shape[0] // mask.shape[0]
    masked = mask.repeat_interleave(side, 0).repeat_interleave(side, 1)
    distance, grown = torch.zeros(masked.shape), masked
    for _ in range(max(masked.shape)):
        distance += ~grown
        grown = F.max_pool2d(grown.float()[None], 3, stride=1, padding=1)[0] > 0
    return torch.stack((distance, (after - before).abs().amax(dim=-1) * 255))[:, ~masked]


def _reach(changes: list[Tensor]) -> float:
    distance, change = torch.cat(changes, dim=1)
    far = range(1, int(distance.max()) + 1)
    return max((d for d in far if change[distance == d].median() >= 1), default=0)


def _drawn(janus: Janus, cases: int) -> dict[str, float | dict[str, float]]:
    """Of pictures drawn from prompts: half of them continued, encoded again, and varied under the next prompt."""
    prompts = choose_prompts(2 * -(-cases // 12))[:cases]
    continued = encoded = right = 0
    kept = dict.fromkeys(STRENGTHS, 0.0)
    for case, prompt in enumerate(prompts):
        drawn = janus.generate(prompt.text, seed=1000 + case)
        picture = janus.decode(drawn)
        if follows(decode(janus, drawn)[0], prompt.request):
            right += 1
            encoded += follows(decode(janus, janus.encode(picture))[0], prompt.request)
        h, w = drawn.grid
        lower = (torch.arange(h) >= h // 2)[:, None].expand(h, w)
        continued += follows(
            decode(janus, repaint(janus, drawn, lower, prompt.text, seed=5000 + case))[0], prompt.request
        )
        other = prompts[(case + 1) % len(prompts)].text
        for strength in STRENGTHS:
            varied = vary(janus, drawn, other, strength=strength, seed=9000 + case)
            kept[strength] += _same(varied, drawn) / len(prompts)
    return {
        "continued from half a picture": continued / len(prompts),
        "right pictures that are right encoded again": encoded / max(right, 1),
        "codes that stay, by strength": {f"{strength:g}": share for strength, share in kept.items()},
    }


def _same(a: ImageTokens, b: ImageTokens) -> float:
    return float((a.ids == b.ids).double().mean())
