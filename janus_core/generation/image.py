"""Drawing: prompt ids -> picture codes, one code of every picture a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .cache import StaticCache
from .sampling import Sampling, check_finite, draw_tokens, guide, seed_keys

Progress = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Drawing:
    """What to draw: `count` pictures of `steps` codes.

    `prompt` are ids that end with begin_of_image, `pad` stands for them where guidance looks away. Picture i uses
    seed + i and does not depend on the others. With `cfg_weight` 1 the unconditional rows are left out.
    """

    prompt: list[int]
    pad: int
    steps: int
    count: int = 1
    seed: int = 0
    cfg_weight: float = 5.0
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def prefixes(self) -> list[list[int]]:
        """What is read before drawing: the prompt, and its unconditional twin where guidance needs one."""
        return [self.prompt] if self.cfg_weight == 1 else [self.prompt, unconditional(self.prompt, self.pad)]


def unconditional(prompt: list[int], pad: int) -> list[int]:
    """The prompt with everything but its first and last token padded; the pads are attended, as in training."""
    return [prompt[0], *[pad] * (len(prompt) - 2), prompt[-1]]


def prefill(
    model: JanusModel, prefixes: list[list[int]], count: int, room: int, device: torch.device | str
) -> tuple[Tensor, StaticCache]:
    """Read each prefix once, for `count` rows in a run: the last hidden states [rows, D] and a cache with `room` more."""
    llama = model.language_model.model
    embeds = model.embed_text(torch.tensor(prefixes, device=device))
    length = embeds.shape[1]
    prefix = StaticCache(llama.config, len(prefixes), length, device, embeds.dtype)
    hidden = llama(embeds, cache=prefix)[:, -1].repeat_interleave(count, dim=0)
    cache = StaticCache(llama.config, len(prefixes) * count, length + room, device, embeds.dtype)
    cache.copy_rows(prefix, count)
    return hidden, cache


def picture_logits(model: JanusModel, hidden: Tensor, cfg_weight: float) -> Tensor:
    """Hidden states [rows, ..., D] -> guided logits [pictures, ..., codes]; without guidance rows are pictures."""
    logits = model.gen_head(hidden)
    if cfg_weight == 1:
        return logits
    cond, uncond = logits.chunk(2)
    return guide(cond, uncond, cfg_weight)


@torch.no_grad()
def draw_codes(
    model: JanusModel, drawing: Drawing, device: torch.device | str, progress: Progress | None = None
) -> Tensor:
    """The pictures' ids, long [count, steps]. `progress(step, total, ids so far [count, step])` may raise to stop."""
    prefixes, count, steps = drawing.prefixes, drawing.count, drawing.steps
    hidden, cache = prefill(model, prefixes, count, steps - 1, device)
    keys = seed_keys(drawing.seed, count, device)
    ids = torch.zeros(count, steps, dtype=torch.long, device=device)
    for step in range(steps):
        if step:
            embeds = model.embed_codes(ids[:, step - 1 : step]).repeat(len(prefixes), 1, 1)
            hidden = model.language_model.model(embeds, cache=cache)[:, -1]
        logits = picture_logits(model, hidden, drawing.cfg_weight)
        if step in (0, steps - 1):  # what goes wrong in between stays in the cache, and shows at the end
            check_finite(logits)
        ids[:, step] = draw_tokens(logits, drawing.sampling, keys, step)
        if progress is not None:
            progress(step + 1, steps, ids[:, : step + 1])
    return ids
