"""Exact Jacobi decoding: guess several codes ahead, check them all in one pass, keep those that come out the same.

The noise of a draw is fixed by (seed, position, code), so a code drawn after the right codes is the very code the
sequential sampler draws; by induction every kept code is. Guesses only decide how many passes it takes
(Song et al. 2021, "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving").
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .image import Drawing, Progress, picture_logits, prefill
from .sampling import check_finite, draw_tokens, seed_keys


@torch.no_grad()
def draw_codes_jacobi(
    model: JanusModel,
    drawing: Drawing,
    device: torch.device | str,
    progress: Progress | None = None,
    window: int = 8,
) -> Tensor:
    """`draw_codes` in fewer passes of `window` codes each: the same ids long [count, steps].

    Each picture goes at its own pace. `progress` is told the slowest one's step.
    """
    prefixes, count, steps, sampling = drawing.prefixes, drawing.count, drawing.steps, drawing.sampling
    start = len(drawing.prompt)
    hidden, cache = prefill(model, prefixes, count, steps + window, device)
    keys = seed_keys(drawing.seed, count, device)
    ids = torch.zeros(count, steps + 2 * window, dtype=torch.long, device=device)
    ahead = torch.arange(window, device=device)
    slots = torch.arange(start + steps + window, device=device)

    logits = picture_logits(model, hidden, drawing.cfg_weight)[:, None]
    check_finite(logits)
    done = torch.zeros(count, 1, dtype=torch.long, device=device)  # codes kept, of each picture
    accepted = torch.ones_like(done)
    positions = done  # [count, T]: which codes `logits` are for
    while True:
        drawn = draw_tokens(logits, sampling, keys, positions)
        if positions.shape[1] > 1:
            right = drawn[:, :-1] == ids.gather(1, positions[:, :-1])
            accepted = 1 + right.long().cumprod(dim=1).sum(dim=1, keepdim=True)
        # What follows a wrong guess was looked at with it in view: the last logits without one have half a say there,
        # and alone guess beyond. The noise is the one that will decide. Mixed in place: a copy would be counted memory.
        last = logits.gather(1, (accepted - 1)[..., None].expand(-1, -1, logits.shape[-1]))
        guessed = draw_tokens(logits.lerp_(last, 0.5), sampling, keys, positions)
        kept = torch.arange(positions.shape[1], device=device) < accepted
        ids.scatter_(1, positions, torch.where(kept, drawn, guessed))
        beyond = positions[:, -1:] + 1 + ahead
        ids.scatter_(1, beyond, draw_tokens(last.expand(-1, window, -1), sampling, keys, beyond))
        done = (done + accepted).clamp(max=steps)
        slowest = int(done.min())
        if progress is not None:
            progress(slowest, steps, ids[:, :slowest])
        if slowest == steps:
            check_finite(logits)
            return ids[:, :steps]

        inputs = done - 1 + ahead  # the last kept code and the guesses after it
        places = cache.slots = (inputs + start).repeat(len(prefixes), 1)
        mask = slots[: int(done.max()) + window + start - 1] <= places[:, None, :, None]
        embeds = model.embed_codes(ids.gather(1, inputs)).repeat(len(prefixes), 1, 1)
        hidden = model.language_model.model(embeds, places, mask, cache)
        logits = picture_logits(model, hidden, drawing.cfg_weight)
        positions = inputs + 1
