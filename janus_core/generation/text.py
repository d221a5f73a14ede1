"""Answering: prompts of text and pictures -> text tokens, several prompts at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..model.janus import JanusModel
from .cache import new_cache
from .execution import Execution
from .recorder import GraphedStep, side_stream
from .sampling import Sampling, check_finite, draw_tokens, seed_keys

Progress = Callable[[int, int, list[list[int]]], None]


def embed_prompts(
    model: JanusModel,
    prompts: list[list[int]],
    *,
    image_id: int,
    pad: int,
    features: Tensor | None,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Left-padded embeddings [B, T, D] and their mask, bool [B, T], True on tokens.

    Each `image_id` takes the next of `features` [pictures, tokens, D], in the order of the prompts.
    """
    reversed_rows = [torch.tensor(p[::-1]) for p in prompts]
    ids = pad_sequence(reversed_rows, batch_first=True, padding_value=-1).flip(1).to(device)
    mask = ids >= 0
    ids = ids.masked_fill(~mask, pad)
    embeds = model.embed_text(ids)
    if features is not None:
        embeds[ids == image_id] = features.flatten(0, 1).to(embeds.dtype)
    return embeds, mask


def prompt_mask(mask: Tensor) -> Tensor | None:
    """Which tokens of left-padded prompts each may look at, bool [B, 1, T, T]; None, meaning causal, without pads."""
    if bool(mask.all()):
        return None
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    # A pad sees itself, so that no row of the softmax is empty.
    return ((causal & mask[:, None, :]) | torch.eye(length, dtype=torch.bool, device=mask.device))[:, None]


class AnswerStep:
    """The state of some answers; called, it draws each one's next token. Made with the first token drawn.

    `embeds` must hold the embedding of the last token before each call. The table of text embeddings is not part of
    the step, because a host may keep it on another device.
    """

    def __init__(
        self,
        model: JanusModel,
        embeds: Tensor,
        mask: Tensor,
        execution: Execution,
        *,
        new: int,
        seed: int,
        sampling: Sampling,
    ):
        self.language, self.sampling = model.language_model, sampling
        rows, self.start = mask.shape
        self.capacity, device = self.start + new - 1, embeds.device
        llama = self.language.model
        self.cache = new_cache(llama.config, rows, self.capacity, execution, embeds.dtype)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        hidden = llama(embeds, positions, self.cache.prompt(prompt_mask(mask)))[:, -1]
        # Pads are never looked at.
        self.visible = torch.cat((mask, mask.new_ones(rows, new - 1)), dim=1)[:, None, None]
        self.slots = torch.arange(self.capacity, device=device)
        self.slot = torch.full((rows, 1), self.start - 1, device=device)
        self.position = positions[:, -1:].clone()
        self.drawn = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.keys = seed_keys(seed, rows, device)
        self.embeds = torch.empty_like(embeds[:, :1])
        self.logits = self.language.lm_head(hidden).clone()
        self.ids = draw_tokens(self.logits[:, None], sampling, self.keys, self.drawn)

    def __call__(self, end: int) -> None:
        for counter in (self.position, self.slot, self.drawn):
            counter.add_(1)
        mask = self.visible[..., :end] & (self.slots[:end] <= self.slot[:, None, :, None])
        hidden = self.language.model(self.embeds, self.position, self.cache.at(self.slot, mask))[:, -1]
        self.logits.copy_(self.language.lm_head(hidden))
        self.ids.copy_(draw_tokens(self.logits[:, None], self.sampling, self.keys, self.drawn))


@torch.no_grad()
def answer_ids(
    model: JanusModel,
    embeds: Tensor,
    mask: Tensor,
    execution: Execution,
    *,
    eos: int,
    max_new_tokens: int,
    seed: int = 0,
    sampling: Sampling,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Continue left-padded prompts (embeddings [B, T, D], mask bool [B, T]) until EOS or `max_new_tokens`.

    Returns each row's new ids without EOS. Row i uses seed + i and equals the row answered alone. Positions are
    counted from the mask. `progress(step, total, rows so far)` may raise to stop.
    """
    answers: list[list[int]] = [[] for _ in mask]
    open_rows = set(range(len(mask)))
    with side_stream(execution.device, execution.uses_graphs(model.answering_parts)) as stream:
        step = AnswerStep(model, embeds, mask, execution, new=max_new_tokens, seed=seed, sampling=sampling)
        run = GraphedStep(step, stream)
        for count in range(1, max_new_tokens + 1):
            check_finite(step.logits)
            for row, (token,) in enumerate(step.ids.tolist()):
                if row in open_rows:
                    if token == eos:
                        open_rows.discard(row)
                    else:
                        answers[row].append(token)
            if progress is not None:
                progress(count, max_new_tokens, answers)
            if not open_rows or count == max_new_tokens:
                break
            step.embeds.copy_(model.embed_text(step.ids))
            run(step.start + count)
    return answers
