"""Exact Jacobi decoding: guess several codes ahead, check them all in one pass, keep those that come out the same.

The noise of a draw is fixed by (seed, position, code), so a code drawn after the right codes is the very code the
sequential sampler draws; by induction every kept code is. Guesses only decide how many passes it takes
(Song et al. 2021, "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving").
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .image import Drawing, Progress, picture_logits, prefill
from .recorder import BUCKET, GraphedStep, side_stream
from .sampling import check_finite, draw_tokens, seed_keys


class FixedPass:
    """The state of a drawing by guesses, and the pass that moves each picture on by the codes that it finds right."""

    def __init__(self, model: JanusModel, drawing: Drawing, device: torch.device | str, window: int):
        self.model, self.drawing, self.bucket = model, drawing, BUCKET
        count, steps, self.start = drawing.count, drawing.steps, len(drawing.prompt)
        hidden, self.cache = prefill(model, drawing.prefixes, count, steps + window, device)
        self.capacity = self.cache.capacity
        self.slots = torch.arange(self.capacity, device=device)
        self.ahead = torch.arange(window, device=device)
        self.keys = seed_keys(drawing.seed, count, device)
        self.ids = torch.zeros(count, steps + 2 * window, dtype=torch.long, device=device)
        self.done = torch.zeros(count, 1, dtype=torch.long, device=device)  # codes kept, of each picture
        self.places = self.cache.slots = torch.empty(len(hidden), window, dtype=torch.long, device=device)
        self.logits = picture_logits(model, hidden, drawing.cfg_weight)[:, None]  # of the first code looked at
        check_finite(self.logits)
        self._keep(self.logits.clone(), self.done)

    def __call__(self, end: int) -> None:
        """Look at the last kept code of each and the guesses after it, and at the cache's first `end` slots."""
        copies = len(self.drawing.prefixes)
        inputs = self.done - 1 + self.ahead
        self.places.copy_((inputs + self.start).repeat(copies, 1))
        mask = self.slots[:end] <= self.places[:, None, :, None]
        embeds = self.model.embed_codes(self.ids.gather(1, inputs)).repeat(copies, 1, 1)
        hidden = self.model.language_model.model(embeds, self.places, mask, self.cache)
        logits = picture_logits(self.model, hidden, self.drawing.cfg_weight)
        self.logits.copy_(logits[:, :1])
        self._keep(logits, inputs + 1)

    def _keep(self, logits: Tensor, positions: Tensor) -> None:
        """Keep what comes out as guessed and one code more, and guess anew: logits [count, T, codes] of `positions`."""
        sampling, keys, window = self.drawing.sampling, self.keys, len(self.ahead)
        drawn = draw_tokens(logits, sampling, keys, positions)
        right = drawn[:, :-1] == self.ids.gather(1, positions[:, :-1])
        accepted = 1 + right.long().cumprod(dim=1).sum(dim=1, keepdim=True)
        # What follows a wrong guess was looked at with it in view: the last logits without one have half a say there,
        # and alone guess beyond. The noise is the one that will decide. Mixed in place: a copy would be counted memory.
        last = logits.gather(1, (accepted - 1)[..., None].expand(-1, -1, logits.shape[-1]))
        guessed = draw_tokens(logits.lerp_(last, 0.5), sampling, keys, positions)
        kept = torch.arange(positions.shape[1], device=positions.device) < accepted
        self.ids.scatter_(1, positions, torch.where(kept, drawn, guessed))
        beyond = positions[:, -1:] + 1 + self.ahead
        self.ids.scatter_(1, beyond, draw_tokens(last.expand(-1, window, -1), sampling, keys, beyond))
        self.done.add_(accepted).clamp_(max=self.drawing.steps)


@torch.no_grad()
def draw_codes_jacobi(
    model: JanusModel,
    drawing: Drawing,
    device: torch.device | str,
    progress: Progress | None = None,
    window: int = 8,
    graphs: bool = False,
) -> Tensor:
    """`draw_codes` in fewer passes of `window` codes each: the same ids long [count, steps]; with CUDA graphs if asked.

    Each picture goes at its own pace. `progress` is told the slowest one's step.
    """
    steps = drawing.steps
    with side_stream(torch.device(device)) if graphs else nullcontext() as stream:
        state = FixedPass(model, drawing, device, window)
        recorded = GraphedStep(state, stream)
        while True:
            done = state.done[:, 0].tolist()
            slowest, fastest = min(done), max(done)
            if progress is not None:
                progress(slowest, steps, state.ids[:, :slowest])
            if slowest == steps:
                break
            recorded(state.start + fastest - 1 + window)
        check_finite(state.logits)
    return state.ids[:, :steps].clone()
