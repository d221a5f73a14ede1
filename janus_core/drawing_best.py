"""Several candidates of a picture, of which the model itself keeps the best: those of no promise are not finished.

The idea is GridAR's (Park et al. 2025, arXiv 2511.21185): draw the first rows of each candidate, ask the model which can
still become what the prompt says, and finish only those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .errors import InputError
from .generation.image import Progress
from .generation.sampling import MAX_SEED
from .judging import YES, best_first, judging_need, matches, question_about, unfinished
from .memory import Need
from .pipeline import Janus
from .tokens import ImageTokens

JUDGED_AT = 0.5  # of the rows: where candidates are dropped
KEPT = 0.25  # of the candidates: how many are finished


@dataclass(frozen=True)
class Candidate:
    """One candidate that was drawn. `generate` with its `seed` draws it too.

    `picture` is float32 [H, W, 3]. `score` is the probability that it matches the prompt; of one that was not finished,
    that its upper part could become what the prompt says.
    """

    seed: int
    picture: Tensor
    score: float
    finished: bool


@dataclass(frozen=True)
class Best:
    """The candidate with the best score, all that were drawn, in that order, and how many codes that took."""

    tokens: ImageTokens
    picture: Tensor  # float32 [1, H, W, 3]
    score: float
    candidates: list[Candidate]
    codes: int


def draw_best(
    janus: Janus,
    prompt: str,
    *,
    seed: int = 0,
    candidates: int = 4,
    tries: int = 1,
    judged_at: float = JUDGED_AT,
    kept: float = KEPT,
    progress: Callable[[int], Progress | None] | None = None,
    **settings: Any,
) -> Best:
    """Draw `candidates` of a picture, finish the most promising, and take the one that matches the prompt best.

    If the model says that not even that one matches, draws as many others, up to `tries` times. Candidate k of try t has
    seed + t * candidates + k. After a share `judged_at` of the rows, a share `kept` of the candidates goes on; with
    `judged_at` 1 all are finished. Drawing is always sequential; other `settings` are those of `generate`.
    `progress(t)` gives the progress function of try t. Raises InputError for numbers out of range, and as `generate` and
    `matches` do.
    """
    for name, value in (("candidates", candidates), ("tries", tries)):
        if value < 1:
            raise InputError(f"{name} is {value}: give at least 1.")
    for name, share in (("judged_at", judged_at), ("kept", kept)):
        if not 0 < share <= 1:
            raise InputError(f"{name} is {share}: give a share above 0 and up to 1.")
    question_about(prompt)
    sequential: dict[str, Any] = settings | {"sampler": "sequential"}
    tops: list[tuple[ImageTokens, Tensor, float]] = []  # of each try
    tried: list[Candidate] = []
    codes = 0
    for attempt in range(tries):
        first = (seed + attempt * candidates) & MAX_SEED if attempt else seed
        drawing = janus.drawing_of(prompt, candidates, seed=first, **sequential)
        culling = Culling(janus, prompt, rows=_rows(janus, judged_at), kept=_finished(candidates, kept))
        tokens = janus.draw(drawing, progress(attempt) if progress else None, cull=culling)
        pictures = janus.decode(tokens)
        scores = matches(janus, pictures, prompt)
        codes += tokens.ids.numel() + culling.codes
        finished = culling.left or list(range(candidates))
        for number in range(candidates):
            if number in finished:
                place = finished.index(number)
                seen = pictures[place], float(scores[place])
            else:
                seen = culling.pictures[number], float(culling.scores[number])
            tried.append(Candidate((first + number) & MAX_SEED, *seen, finished=number in finished))
        [top] = best_first(scores, 1)
        tops.append((replace(tokens, ids=tokens.ids[top : top + 1]), pictures[top : top + 1], float(scores[top])))
        if tops[-1][2] > YES:
            break
    return Best(*max(tops, key=lambda top: top[2]), candidates=tried, codes=codes)


def drawing_best_need(janus: Janus, prompt: str, *, candidates: int = 4, kept: float = KEPT, **settings: Any) -> Need:
    """What `draw_best` needs on the device with these settings. Raises InputError as it does."""
    both = candidates + _finished(candidates, kept)  # when some are dropped, the others' cache is copied
    sequential: dict[str, Any] = settings | {"sampler": "sequential"}
    drawing = janus.drawing_need(prompt, both, **sequential)
    return drawing + janus.decoding_need() + judging_need(janus, question_about(prompt), candidates)


def _rows(janus: Janus, judged_at: float) -> int:
    return max(1, round(judged_at * janus.model.config.grid[0]))


def _finished(candidates: int, kept: float) -> int:
    return max(1, round(kept * candidates))


class Culling:
    """Drops the candidates of least promise when `rows` rows are drawn, and remembers what it saw of each."""

    def __init__(self, janus: Janus, prompt: str, *, rows: int, kept: int):
        self.janus, self.prompt, self.rows, self.kept = janus, prompt, rows, kept
        self.left: list[int] = []  # the candidates that go on, if some were dropped
        self.codes = 0  # of those that were dropped

    def __call__(self, ids: Tensor) -> Tensor | None:
        if ids.shape[1] != self.rows * self.janus.model.config.grid[1] or self.kept >= len(ids):
            return None
        self.pictures = unfinished(self.janus, ids)
        self.scores = matches(self.janus, self.pictures, self.prompt)
        self.left = sorted(best_first(self.scores, self.kept))
        self.codes = (len(ids) - self.kept) * ids.shape[1]
        return torch.tensor(self.left, device=ids.device)
