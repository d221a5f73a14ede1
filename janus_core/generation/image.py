"""Drawing: prompt ids -> picture codes, one code of every picture a step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .cache import StaticCache
from .sampling import Sampling, check_finite, draw_tokens, guide, seed_keys

Progress = Callable[[int, int, Tensor], None]


def unconditional(prompt: list[int], pad: int) -> list[int]:
    """The prompt with everything but its first and last token padded; the pads are attended, as in training."""
    return [prompt[0], *[pad] * (len(prompt) - 2), prompt[-1]]


@torch.no_grad()
def draw_codes(
    model: JanusModel,
    prompt: list[int],
    pad: int,
    steps: int,
    count: int,
    seed: int,
    cfg_weight: float,
    sampling: Sampling,
    device: torch.device | str,
    progress: Progress | None = None,
) -> Tensor:
    """Draw `count` pictures of `steps` codes: ids long [count, steps].

    `prompt` ends with begin_of_image. Picture i uses seed + i and does not depend on the others. With `cfg_weight` 1
    the unconditional rows are left out. `progress(step, total, ids so far [count, step])` may raise to stop.
    """
    prefixes = [prompt] if cfg_weight == 1 else [prompt, unconditional(prompt, pad)]
    llama = model.language_model.model
    keys = seed_keys(seed, count, device)
    ids = torch.zeros(count, steps, dtype=torch.long, device=device)

    embeds = model.embed_text(torch.tensor(prefixes, device=device))
    prefix = StaticCache(llama.config, len(prefixes), len(prompt), device, embeds.dtype)
    hidden = llama(embeds, cache=prefix)[:, -1:].repeat_interleave(count, dim=0)
    cache = StaticCache(llama.config, len(prefixes) * count, len(prompt) + steps - 1, device, embeds.dtype)
    cache.copy_rows(prefix, count)
    del prefix

    for step in range(steps):
        logits = model.gen_head(hidden[:, -1])
        if len(prefixes) == 2:
            cond, uncond = logits.chunk(2)
            logits = guide(cond, uncond, cfg_weight)
        if step in (0, steps - 1):  # what goes wrong in between stays in the cache, and shows at the end
            check_finite(logits)
        ids[:, step] = draw_tokens(logits, sampling, keys, step)
        if progress is not None:
            progress(step + 1, steps, ids[:, : step + 1])
        if step + 1 < steps:
            drawn = model.embed_codes(ids[:, step : step + 1])
            hidden = llama(drawn.repeat(len(prefixes), 1, 1), cache=cache)
    return ids
