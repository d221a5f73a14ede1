"""Continuous batching: many answers in the rows of one KV cache. When an answer ends, a waiting question takes its row."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .cache import attention_kernels
from .context import Context
from .execution import Execution
from .recorder import GraphedStep, side_stream
from .sampling import Sampling, check_finite, draw_tokens, seed_keys
from .text import embed_prompts


@dataclass(eq=False)
class Waiting:
    """A question as `answer_rows` takes it: the embeddings of its prompt [T, D] are made from `prompt` and `pixels`.

    `pixels`, float [n, 3, S, S], are its preprocessed pictures, whose placeholders are in `prompt`. `answer` grows.
    """

    prompt: list[int]
    pixels: Tensor | None
    seed: int
    answer: list[int] = field(default_factory=list)


class RowsStep:
    """One decode step of `rows` answers, each at its own length, and its state. As `text.AnswerStep`, but never padded.

    Row r has written slots 0..slots[r] of the cache. An idle row stands still: what it computes is not looked at.
    """

    def __init__(self, model: JanusModel, execution: Execution, *, rows: int, capacity: int, sampling: Sampling):
        self.model, self.language, self.sampling = model, model.language_model, sampling
        self.execution, device = execution, execution.device
        dtype = model.embed_text(torch.zeros(1, 1, dtype=torch.long, device=device)).dtype
        self.context = Context(self.language.model, rows, capacity, execution, dtype)
        self.capacity = self.context.capacity
        # slots and index are of the last token read and of the last one drawn; moves is 0 in idle rows.
        self.slots, self.index, self.moves = (torch.zeros(rows, 1, dtype=torch.long, device=device) for _ in range(3))
        self.keys = torch.zeros(rows, 2, dtype=torch.long, device=device)
        self.embeds = torch.zeros(rows, 1, model.config.llama.hidden_size, dtype=dtype, device=device)
        self.logits = torch.zeros(rows, model.config.llama.vocab_size, dtype=dtype, device=device)
        self.ids = torch.zeros(rows, 1, dtype=torch.long, device=device)

    def fill(self, rows: list[int], embeds: Tensor, seeds: list[int]) -> None:
        """Read prompts of equal length, embeddings [n, T, D], into `rows`, and draw the first token of each."""
        count, length = embeds.shape[:2]
        prefix = Context(self.language.model, count, length, self.execution, embeds.dtype)
        logits = self.language.lm_head(prefix.read(embeds)[:, -1])
        self.context.cache.put_rows(rows, prefix.cache)
        for i, row in enumerate(rows):
            self.logits[row] = logits[i]
            self.keys[row] = seed_keys(seeds[i], 1, embeds.device)[0]
            self.slots[row], self.index[row], self.moves[row] = length - 1, 0, 1
        self.ids.copy_(self._drawn())

    def leave(self, row: int) -> None:
        """Let a row stand still until it is filled again."""
        self.moves[row] = 0

    def __call__(self, end: int) -> None:
        self.slots.add_(self.moves)
        self.index.add_(self.moves)
        hidden = self.context.step(self.embeds, self.slots, end)[:, -1]
        self.logits.copy_(self.language.lm_head(hidden))
        self.ids.copy_(self._drawn())

    def _drawn(self) -> Tensor:
        return draw_tokens(self.logits[:, None], self.sampling, self.keys, self.index, self.context.kernels)


@torch.no_grad()
def answer_rows(
    model: JanusModel,
    questions: Iterator[Waiting],
    execution: Execution,
    *,
    rows: int,
    longest: int,
    image_id: int,
    eos: int,
    max_new_tokens: int,
    sampling: Sampling,
    finished: Callable[[Waiting], object],
    progress: Callable[[], object] | None = None,
) -> None:
    """Answer `questions`, whose prompts have at most `longest` tokens, `rows` at a time.

    `finished` is called with each when its answer ends, in the order in which they end. Each answer, without EOS, is the
    one that `text.answer_ids` gives to the question alone. `progress` is called after each step and may raise to stop.
    Raises CheckpointError if the logits are not finite.
    """
    capacity = longest + max_new_tokens - 1
    graphs = execution.uses_graphs(model.answering_parts)
    with attention_kernels(execution.device), side_stream(execution.device, graphs) as stream:
        step = RowsStep(model, execution, rows=rows, capacity=capacity, sampling=sampling)
        run = GraphedStep(step, stream, step.capacity if step.context.kernels else None)
        busy: dict[int, Waiting] = {}

        def note(of: list[int]) -> None:
            """Write down the tokens that the rows `of` have drawn, and free those whose answers end."""
            check_finite(step.logits)
            drawn = step.ids.tolist()
            for row in of:
                [token], one = drawn[row], busy[row]
                if token != eos:
                    one.answer.append(token)
                if token == eos or len(one.answer) == max_new_tokens:
                    step.leave(row)
                    finished(busy.pop(row))

        while True:
            while new := list(islice(questions, rows - len(busy))):
                free = iter([row for row in range(rows) if row not in busy])
                for _, alike in groupby(new, key=lambda one: len(one.prompt)):
                    taken = {row: one for one, row in zip(alike, free, strict=False)}  # in this order: no row is lost
                    ones = list(taken.values())
                    embeds = _embed(model, ones, image_id, step.embeds.dtype, execution.device)
                    step.fill(list(taken), embeds, [one.seed for one in ones])
                    busy |= taken
                    note(list(taken))
            if not busy:
                return
            step.embeds.copy_(model.embed_text(step.ids))
            run(max(len(one.prompt) + len(one.answer) for one in busy.values()))
            note(list(busy))
            if progress is not None:
                progress()


def _embed(
    model: JanusModel, questions: list[Waiting], image_id: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The embeddings of prompts of equal length [n, T, D]."""
    pixels = [one.pixels for one in questions if one.pixels is not None]
    features = model.embed_images(torch.cat(pixels).to(device, dtype)) if pixels else None
    prompts = [one.prompt for one in questions]
    return embed_prompts(model, prompts, image_id=image_id, pad=image_id, features=features, device=device)[0]
