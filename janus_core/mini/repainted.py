"""Scores of tokens as a canvas: repainted and continued pictures, variations, and pictures that are encoded again."""

from __future__ import annotations

import numpy as np
import torch

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
    return {
        **{f"repaint, {n} candidate{'s' * (n > 1)}": value for n, value in _repaint(janus, cases).items()},
        **_drawn(janus, cases),
    }


def _repaint(janus: Janus, cases: int) -> dict[int, float]:
    """A second object is painted into an empty cell of a rendered picture: it is there, and all else is as before."""
    right: dict[int, int] = dict.fromkeys(CANDIDATES, 0)
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
    return {count: n / cases for count, n in right.items()}


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
