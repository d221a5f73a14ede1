"""Answering: prompts of words and pictures -> words, several prompts at once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..model.janus import JanusModel
from .cache import StaticCache
from .sampling import Sampling, check_finite, draw_tokens, seed_keys

Progress = Callable[[int, int, list[list[int]]], None]


def embed_prompts(
    model: JanusModel, prompts: list[list[int]], image_id: int, pad: int, features: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Left-padded embeddings [B, T, D] and their mask, bool [B, T], True on tokens.

    Every `image_id` takes the next of `features` [n pictures, tokens, D], in order of prompts and places.
    """
    reversed_rows = [torch.tensor(p[::-1]) for p in prompts]
    ids = pad_sequence(reversed_rows, batch_first=True, padding_value=-1).flip(1).to(device)
    mask = ids >= 0
    ids = ids.masked_fill(~mask, pad)
    embeds = model.embed_text(ids)
    if features is not None:
        embeds[ids == image_id] = features.flatten(0, 1).to(embeds.dtype)
    return embeds, mask


def read_prompts(model: JanusModel, embeds: Tensor, mask: Tensor, room: int) -> tuple[Tensor, Tensor, StaticCache]:
    """Read left-padded prompts: last hidden states [B, D], last positions [B, 1], and a cache with `room` more slots."""
    llama = model.language_model.model
    rows, length = mask.shape
    cache = StaticCache(llama.config, rows, length + room, embeds.device, embeds.dtype)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    visible = None
    if not bool(mask.all()):
        causal = torch.ones(length, length, dtype=torch.bool, device=embeds.device).tril()
        # A pad sees itself, so that no row of the softmax is empty.
        visible = ((causal & mask[:, None, :]) | torch.eye(length, dtype=torch.bool, device=embeds.device))[:, None]
    hidden = llama(embeds, positions, visible, cache)
    return hidden[:, -1], positions[:, -1:], cache


def words(
    model: JanusModel, embeds: Tensor, mask: Tensor, count: int, seed: int, sampling: Sampling
) -> Generator[Tensor, None, None]:
    """The next `count` ids of each row, long [B], one after another."""
    hidden, position, cache = read_prompts(model, embeds, mask, count - 1)
    padded = not bool(mask.all())
    keys = seed_keys(seed, len(mask), embeds.device)
    for step in range(count):
        logits = model.language_model.lm_head(hidden)
        check_finite(logits)
        drawn = draw_tokens(logits, sampling, keys, step)
        yield drawn
        if step + 1 == count:
            break
        if padded:
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        hidden = model.language_model.model(
            model.embed_text(drawn[:, None]), position + step + 1, mask[:, None, None] if padded else None, cache
        )[:, -1]


Words = Callable[[JanusModel, Tensor, Tensor, int, int, Sampling], Generator[Tensor, None, None]]


@torch.no_grad()
def answer_ids(
    model: JanusModel,
    embeds: Tensor,
    mask: Tensor,
    eos: int,
    max_new_tokens: int,
    seed: int,
    sampling: Sampling,
    progress: Progress | None = None,
    words: Words = words,
) -> list[list[int]]:
    """Continue left-padded prompts (embeddings [B, T, D], mask bool [B, T]) until EOS or `max_new_tokens`.

    Returns each row's new ids without EOS. Row i uses seed + i and equals the row answered alone. Positions are
    counted from the mask. `progress(step, total, rows so far)` may raise to stop.
    """
    answers: list[list[int]] = [[] for _ in mask]
    open_rows = set(range(len(mask)))
    with closing(words(model, embeds, mask, max_new_tokens, seed, sampling)) as drawn:
        for step, ids in enumerate(drawn, 1):
            for row, token in enumerate(ids.tolist()):
                if row in open_rows:
                    if token == eos:
                        open_rows.discard(row)
                    else:
                        answers[row].append(token)
            if progress is not None:
                progress(step, max_new_tokens, answers)
            if not open_rows:
                break
    return answers
