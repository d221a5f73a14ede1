"""What to draw, and from the picture head's logits to codes: guidance, min-p, kept codes, and codes near a source's.

Both samplers draw through `CodeDraw`, so that jacobi's codes are the sequential ones whatever is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor

from ..errors import InputError
from .sampling import Sampling, draw_tokens, guide, is_finite, noisy_scores, seed_keys

HIDDEN, FEATURE = -1, -2  # among a prompt's ids: a place that nothing looks at, and the place of a feature
MAX_COUNT = 2**20  # pictures at once: no memory holds so many, and sizes with more overflow 64 bits


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Codes to stay near (anchor token matching, ISLock, Hu et al. 2025).

    Of the V ** (1 - strength) codes with the best scores, the one is drawn whose vector, of `vectors` [V, d], is nearest
    to that of the code in `source`, long [count, steps]. Strength 1 draws freely, 0 gives the source.
    """

    source: Tensor
    vectors: Tensor
    strength: float

    @property
    def candidates(self) -> int:
        return round(len(self.vectors) ** (1 - self.strength))

    def nearest(self, scores: Tensor, index: Tensor) -> Tensor:
        """Of the best `scores` [count, T, V] of the codes at `index` [count, T]: long [count, T]."""
        best = scores.topk(self.candidates, dim=-1).indices
        wanted = self.source.gather(1, index.clamp(max=self.source.shape[1] - 1))[..., None]  # [count, T, 1]
        near = (self.vectors[best] * self.vectors[wanted]).sum(-1)
        near = near.masked_fill(best == wanted, torch.inf)  # other codes may have an equal vector
        return best.gather(-1, near.argmax(-1, keepdim=True))[..., 0]


@dataclass(frozen=True)
class Kept:
    """Codes to keep, long [count, steps], and -1 where to draw.

    Drawing fills `likelihood`, float32 [count, steps], with the log-probability of each code of the picture, kept or drawn,
    under the prompt, after the codes before it.
    """

    codes: Tensor
    likelihood: Tensor

    @property
    def lead(self) -> int:
        """How many codes all pictures keep at their start. The last one is not counted: something is left to draw."""
        return int((self.codes[:, :-1] >= 0).all(dim=0).long().cumprod(dim=0).sum())


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What to draw: `count` pictures of `steps` codes.

    `prompt` are ids that end with begin_of_image; `pad` replaces them in the unconditional prompt. Where the pictures differ,
    `prompts` has one for each in its place. `unconditional` are the prompts without a condition, where they are not those.
    `partial` are prompts with a part of the condition, whose logits count `partial_weight` times those of the whole.
    In all of these each FEATURE takes the next of `features`, embeddings [places, D], in the order of `prefixes`, and
    HIDDEN is a place that keeps its position.
    Picture i uses seed + i and does not depend on the others. With several `salts`, each seed draws one picture per salt, in
    succession, and `count` is that of all. `window` is how many codes a pass of jacobi reads, 1 for a plain step.
    `cfg_end` is the CFG weight of the last code, on the way of `cfg_power`; None keeps `cfg_weight`.
    """

    prompt: list[int]
    pad: int
    steps: int
    count: int = 1
    seed: int = 0
    salts: tuple[int, ...] = (0,)
    cfg_weight: float = 5.0
    cfg_end: float | None = None
    cfg_power: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    window: int = 1
    kept: Kept | None = None
    anchors: Anchors | None = None
    prompts: tuple[list[int], ...] = ()
    unconditional: tuple[list[int], ...] = ()
    partial: tuple[list[int], ...] = ()
    partial_weight: float = 0.0
    features: Tensor | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"The batch size is {self.count}: ask for at least one picture.")
        if self.count > MAX_COUNT:
            raise InputError(f"The batch size is {self.count}, more than the limit of {MAX_COUNT}: draw fewer at once.")
        for weight in (self.cfg_weight, self.cfg_weight if self.cfg_end is None else self.cfg_end):
            if not is_finite(weight):
                raise InputError(f"The CFG weight is {weight}: give a number, usually between 1 and 10.")
        if not (is_finite(self.cfg_power) and self.cfg_power > 0):
            raise InputError(f"cfg_power is {self.cfg_power}: give a number above 0; 1 is a straight way to cfg_end.")
        if self.window < 1:
            raise InputError(f"The window is {self.window}: look at least 1 code ahead.")

    @property
    def guided_by(self) -> list[Sequence[list[int]]]:
        """Under each guide, the one prompt of all pictures or one for each: the whole condition, a part of it, none.

        The last is left out if the CFG weight stays 1.
        """
        whole = self.prompts or (self.prompt,)
        without = self.unconditional or [unconditional(prompt, self.pad) for prompt in whole]
        only = self.cfg_weight == 1 and self.cfg_end in (None, 1)
        return [whole, *([self.partial] if self.partial else []), *([] if only else [without])]

    @property
    def guides(self) -> int:
        """Rows per picture."""
        return len(self.guided_by)

    @property
    def prefixes(self) -> list[list[int]]:
        """The prompts to prefill, guide by guide."""
        return [prompt for prompts in self.guided_by for prompt in prompts]

    @property
    def length(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prefixes))

    @property
    def rows(self) -> int:
        """Tokens per forward pass: pictures x guides x window."""
        return self.count * self.guides * self.window

    def weight_at(self, index: Tensor) -> float | Tensor:
        """The CFG weight of the codes at `index` [count, T]: one for all, or float32 [count, T, 1]."""
        start = float(self.cfg_weight)
        if self.cfg_end in (None, self.cfg_weight):
            return start
        way = (index[..., None] / max(self.steps - 1, 1)).clamp(max=1) ** float(self.cfg_power)
        return start + (float(self.cfg_end) - start) * way

    def guided(self, logits: Tensor, index: Tensor) -> Tensor:
        """The picture head's logits, of the rows of all guides [rows, T, codes], -> the pictures' [count, T, codes].

        Codes with less than `min_p` of the likeliest code's probability under the prompt are -inf. This comes before
        guidance, which lifts what is impossible under the prompt, but less possible still without it.
        """
        cond, *others = logits.chunk(self.guides)
        if self.partial:
            cond = (cond + self.partial_weight * others.pop(0)) / (1 + self.partial_weight)
        mixed = guide(cond, others[0], self.weight_at(index)) if others else cond
        if self.sampling.min_p == 0:
            return mixed
        unlikely = cond - cond.amax(dim=-1, keepdim=True) < math.log(self.sampling.min_p)
        return mixed.masked_fill(unlikely, -torch.inf)


def unconditional(prompt: list[int], pad: int) -> list[int]:
    """The prompt with all but its first and last token padded; the pads are attended, as in training."""
    return [prompt[0], *[pad] * (len(prompt) - 2), prompt[-1]]


class CodeDraw:
    """Draws the codes of a drawing from logits, at any index, in any order: each is a function of its logits alone."""

    def __init__(self, drawing: Drawing, device: torch.device, kernels: ModuleType | None):
        self.drawing, self.keys = drawing, seed_keys(drawing.seed, drawing.count, device, salts=drawing.salts)
        sampling = drawing.sampling
        constant = drawing.cfg_end in (None, drawing.cfg_weight)
        plain = constant and drawing.anchors is None and not drawing.partial
        self.kernels = kernels if sampling.unfiltered and plain else None
        self.other_kernels = kernels if drawing.anchors is None else None
        if drawing.kept:
            codes = drawing.kept.codes.to(device)
            spare = codes.new_full((drawing.count, 2 * drawing.window), -1)  # jacobi guesses beyond the picture
            self.kept = torch.cat((codes, spare), dim=1)
            self.likelihood = torch.zeros(self.kept.shape, device=device)

    def __call__(self, logits: Tensor, index: Tensor) -> Tensor:
        """Logits [rows, T, codes] of the codes at `index` [count, T] -> codes, long [count, T]."""
        drawn = self._drawn(logits, index)
        if not self.drawing.kept:
            return drawn
        kept = self.kept.gather(1, index)
        return torch.where(kept < 0, drawn, kept)

    def keep_pictures(self, pictures: Tensor) -> None:
        """Go on with some of the pictures, long [n], without kept codes or anchors."""
        self.keys = self.keys[pictures]

    def note(self, codes: Tensor, logits: Tensor, index: Tensor) -> None:
        """Write down how likely `codes` [count, T] are, drawn from these logits; of a code twice, the last counts."""
        if self.drawing.kept:
            cond = logits[: len(codes)]
            cond = cond if cond.dtype == torch.float64 else cond.float()
            chances = cond.log_softmax(dim=-1).gather(-1, codes[..., None])[..., 0]
            self.likelihood.scatter_(1, index, chances.float())

    def report(self) -> None:
        """Copy the likelihoods into the drawing's own tensor."""
        if self.drawing.kept:
            self.drawing.kept.likelihood.copy_(self.likelihood[:, : self.drawing.steps])

    def _drawn(self, logits: Tensor, index: Tensor) -> Tensor:
        drawing, sampling = self.drawing, self.drawing.sampling
        if self.kernels:
            guided = drawing.guides == 2
            return self.kernels.draw(
                logits,
                self.keys,
                index,
                cfg_weight=float(drawing.cfg_weight) if guided else None,
                min_p=sampling.min_p,
                temperature=sampling.temperature,
            )
        guided = drawing.guided(logits, index)
        if drawing.anchors:
            return drawing.anchors.nearest(noisy_scores(guided, sampling, self.keys, index), index)
        return draw_tokens(guided, sampling, self.keys, index, self.other_kernels)
