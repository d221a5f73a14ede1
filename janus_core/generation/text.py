"""Answering: prompts of text and pictures -> text tokens, several prompts at once."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..model.janus import JanusModel
from .cache import attention_kernels
from .context import Context
from .execution import Execution
from .recorder import GraphedStep, side_stream
from .sampling import Sampling, check_finite, draw_tokens, likely, penalised, seed_keys

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
    """The attention mask of left-padded prompts, bool [B, 1, T, T]; None, which is causal, without padding."""
    return None if bool(mask.all()) else padded_mask(mask)


def padded_mask(mask: Tensor) -> Tensor:
    """`prompt_mask` of prompts that are known to be padded, bool [B, 1, T, T]."""
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    # A pad sees itself, so that no row of the softmax is empty.
    return ((causal & mask[:, None, :]) | torch.eye(length, dtype=torch.bool, device=mask.device))[:, None]


class AnswerStep:
    """One decode step for a batch of answers, and its state.

    The constructor reads the prompts and draws the first token of each; each call draws the next. The caller copies the
    embedding of the last token into `embeds` before each call: a host may keep the embedding table on another device.
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
        self.context = Context(self.language.model, rows, self.start + new - 1, execution, embeds.dtype)
        self.capacity, device = self.context.capacity, embeds.device
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        looks = prompt_mask(mask)
        hidden = self.context.read(embeds, positions, looks)[:, -1]
        # Pads are never looked at.
        more = mask.new_ones(rows, self.capacity - self.start)
        self.visible = None if looks is None else torch.cat((mask, more), dim=1)[:, None, None]
        self.position = positions[:, -1:].clone()
        self.index = torch.zeros(rows, 1, dtype=torch.long, device=device)  # of the last token drawn
        self.keys = seed_keys(seed, rows, device)
        self.embeds = torch.empty_like(embeds[:, :1])
        self.logits = self.language.lm_head(hidden).clone()
        self.used = torch.zeros_like(self.logits, dtype=torch.bool) if sampling.penalises else None
        self.ids = self._drawn()

    def __call__(self, end: int) -> None:
        self.position.add_(1)
        self.index.add_(1)
        slots = self.index + self.start - 1
        hidden = self.context.step(self.embeds, slots, end, positions=self.position, visible=self.visible)[:, -1]
        self.logits.copy_(self.language.lm_head(hidden))
        self.ids.copy_(self._drawn())

    def _drawn(self) -> Tensor:
        logits, sampling = self.logits, self.sampling
        if self.used is not None:
            logits = penalised(logits, sampling, self.used)
        if sampling.min_p:
            logits = likely(logits, sampling)
        ids = draw_tokens(logits[:, None], sampling, self.keys, self.index, self.context.kernels)
        if self.used is not None:
            self.used.scatter_(1, ids, True)
        return ids


@torch.no_grad()
def first_logits(model: JanusModel, embeds: Tensor, mask: Tensor, execution: Execution) -> Tensor:
    """The logits [B, vocabulary] of the first token after left-padded prompts: see `answer_ids`, whose first step it is."""
    with attention_kernels(execution.device):
        settings = {"new": 1, "seed": 0, "sampling": Sampling(0.0)}
        logits = AnswerStep(model, embeds, mask, execution, **settings).logits
        check_finite(logits)
        return logits


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
    counted from the mask. `progress(step, total, rows so far)` may raise to stop. Raises CheckpointError if the logits are
    not finite.
    """
    answers: list[list[int]] = [[] for _ in mask]
    open_rows = set(range(len(mask)))
    graphs = execution.uses_graphs(model.answering_parts)
    with attention_kernels(execution.device), side_stream(execution.device, graphs) as stream:
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
