"""Pictures judged by the model itself: the probability that it says yes to a question about a picture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import CheckpointError, InputError
from .memory import Need
from .pipeline import Janus, Pictures
from .processing import Processor
from .tokens import ImageTokens

AT_ONCE = 8  # pictures judged together
UNSEEN = 127  # of 255: the grey of rows that are not drawn yet, which is also what SigLIP's preprocessing pads with
YES = 0.5  # a probability above it is a yes
SPELLINGS = (str.lower, str.capitalize, str.upper)


def question_about(prompt: str) -> str:
    """The question whether a picture matches a prompt. Raises InputError for an empty prompt."""
    if not prompt.strip():
        raise InputError("The description is empty: say what the picture should show.")
    return f'Does this image match the description "{prompt.strip()}"?'


def matches(
    janus: Janus, images: Pictures, prompt: str, *, progress: Callable[[int, int], object] | None = None
) -> Tensor:
    """How probably each of the pictures matches the prompt: float32 [N], on the CPU. See `chance_of_yes`."""
    return chance_of_yes(janus, images, question_about(prompt), progress=progress)


def chance_of_yes(
    janus: Janus, images: Pictures, question: str, *, progress: Callable[[int, int], object] | None = None
) -> Tensor:
    """P(yes) / (P(yes) + P(no)) of the answer's first token, for a question about each picture alone: float32 [N].

    `images` are float [N, H, W, 3] in 0..1, or a list of [H, W, 3] of any sizes. All spellings count: see `answer_tokens`.
    The verifier of Janus-Pro-R1 (Pan et al. 2025) reads the same two words. `progress(pictures judged, pictures)` may
    raise to stop. Raises InputError for an empty question and bad pictures, CheckpointError if the model computes NaN.
    """
    yes, no = answer_tokens(janus.processor)
    pictures, chances = list(images), []
    for start in range(0, len(pictures), AT_ONCE):
        some = pictures[start : start + AT_ONCE]
        logits = janus.first_logits([question] * len(some), [[picture] for picture in some]).double()
        chances.append(torch.sigmoid(logits[:, yes].logsumexp(dim=1) - logits[:, no].logsumexp(dim=1)).float().cpu())
        if progress is not None:
            progress(start + len(some), len(pictures))
    if not chances:
        raise InputError("There is no picture: give at least one.")
    return torch.cat(chances)


def answer_tokens(processor: Processor) -> tuple[list[int], list[int]]:
    """The tokens with which a yes and a no may begin, in lower, upper and title case, with and without a space before.

    A space of its own says nothing yet, nor does a token with which both begin. Raises CheckpointError where the
    tokenizer has none for one of the words.
    """
    first = [
        {processor.plain(space + spelling(word))[0] for spelling, space in product(SPELLINGS, ("", " "))}
        for word in ("yes", "no")
    ]
    neither = first[0] & first[1] | {*processor.plain(" ")}
    yes, no = (sorted(tokens - neither) for tokens in first)
    if not yes or not no:
        raise CheckpointError(
            f"{processor.path} has no tokens that tell yes from no: this model cannot judge pictures, so use another."
        )
    return yes, no


def judging_need(janus: Janus, question: str, pictures: int) -> Need:
    """What `chance_of_yes` needs on the device. Raises InputError as it does."""
    return janus.answering_need(question, 1, max_new_tokens=1, rows=min(max(pictures, 1), AT_ONCE))


def best_first(scores: Tensor, keep: int) -> list[int]:
    """The indices of the `keep` best scores [N], or as many as there are; of equal ones the first is the better."""
    return scores.argsort(descending=True, stable=True)[:keep].tolist()


def unfinished(janus: Janus, ids: Tensor) -> Tensor:
    """The pictures of drawings of which only the first rows are there: float32 [N, H, W, 3], grey below.

    `ids` are long [N, rows * w].
    """
    height, width = janus.model.config.grid
    rows = ids.shape[1] // width
    part = janus.decode(ImageTokens(ids, (rows, width), janus.codebook))
    missing = part.shape[1] // rows * (height - rows)
    return F.pad(part, (0, 0, 0, 0, 0, missing), value=UNSEEN / 255)
