"""Answers to a list of questions, each about a picture or none, by continuous batching."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, context_exceeded
from ..generation.continuous import Waiting, answer_rows
from ..generation.sampling import Sampling
from ..generation.self_check import decide
from ..pictures import preprocess, read_picture
from ..pipeline import Janus
from .items import Item

# Questions that are sorted by length and answered together, in batches: between two such groups other threads get their turn.
GROUP = 32


def answer_all(
    janus: Janus,
    questions: Iterable[Item],
    *,
    rows: int,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    finished: Callable[[Item, str], object],
    failed: Callable[[Item, InputError], object],
    progress: Callable[[], object] | None = None,
) -> None:
    """Answer each question as `Janus.answer` does alone, `rows` of them at a time.

    `finished(question, answer)` is called as answers end, which is not the order of the questions. `failed(question,
    error)` is called for one that cannot be answered: its picture cannot be read, it is empty, or too long. `progress` is
    called after each token and may raise to stop. Raises InputError for settings out of range, CheckpointError if the
    model computes NaN.
    """
    if max_new_tokens < 1:
        raise InputError(f"The answer may take {max_new_tokens} tokens: give at least 1 as max_new_tokens.")
    sampling, remaining = Sampling(temperature), iter(questions)
    while group := list(islice(remaining, GROUP * rows)):
        prompts = {}
        for question in group:
            try:
                prompts[question] = _prompt(janus, question, max_new_tokens)
            except InputError as error:
                failed(question, error)
        # Rows of like length together, as a step reads the slots of the longest.
        asked = sorted(prompts, key=lambda question: -len(prompts[question]))
        if asked:
            settings = {"max_new_tokens": max_new_tokens, "sampling": sampling, "progress": progress}
            _answer_group(
                janus, asked, prompts, rows=min(rows, len(asked)), finished=finished, failed=failed, **settings
            )


def _prompt(janus: Janus, question: Item, new: int) -> list[int]:
    prompt = janus.processor.question_prompt(question.text, 0 if question.picture is None else 1)
    if len(prompt) + new > janus.context:
        cure = "shorten the question or ask for less"
        raise context_exceeded("question", used=len(prompt), new=new, limit=janus.context, cure=cure)
    return prompt


@torch.no_grad()
def _answer_group(
    janus: Janus,
    group: list[Item],
    prompts: dict[Item, list[int]],
    *,
    rows: int,
    max_new_tokens: int,
    sampling: Sampling,
    finished: Callable[[Item, str], object],
    failed: Callable[[Item, InputError], object],
    progress: Callable[[], object] | None,
) -> None:
    """Answer questions, the longest first, in the rows of one KV cache."""
    asked: dict[Waiting, Item] = {}

    def waiting(pixels: Iterator[tuple[Item, Future[Tensor | None]]]) -> Iterator[Waiting]:
        for question, read in pixels:
            try:
                one = Waiting(prompts[question], read.result(), question.seed)
            except InputError as error:
                failed(question, error)
            else:
                asked[one] = question
                yield one

    def end(one: Waiting) -> None:
        finished(asked.pop(one), janus.processor.decode(one.answer))

    cure = "answer fewer at once, or lower max_new_tokens"
    with (
        janus.working(f"answering {rows} questions at once", cure, [janus.model.language_model], rows=rows),
        closing(_read_ahead(janus, group, rows)) as pixels,
    ):
        sample = janus.model.embed_text(torch.tensor([prompts[group[0]]], device=janus.device))
        answer_rows(
            janus.model,
            waiting(pixels),
            decide(janus.execution, janus.model.language_model.model, sample),
            rows=rows,
            longest=len(prompts[group[0]]),
            image_id=janus.processor.image,
            eos=janus.processor.eos,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            finished=end,
            progress=progress,
        )


def _read_ahead(
    janus: Janus, questions: list[Item], count: int
) -> Generator[tuple[Item, Future[Tensor | None]], None, None]:
    """Each question and the pixels of its picture, which threads read while up to `count` others wait."""
    with ThreadPoolExecutor(2, "janus-pictures") as pool:
        ahead: deque[tuple[Item, Future[Tensor | None]]] = deque()
        try:
            for question in questions:
                ahead.append((question, pool.submit(_pixels, janus, question.picture)))
                if len(ahead) > count:
                    yield ahead.popleft()
            while ahead:
                yield ahead.popleft()
        finally:
            for _, left in ahead:
                left.cancel()


def _pixels(janus: Janus, picture: Path | bytes | None) -> Tensor | None:
    """A picture's pixels for SigLIP, float32 [1, 3, S, S]."""
    if picture is None:
        return None
    image = read_picture(BytesIO(picture) if isinstance(picture, bytes) else picture)
    return preprocess([image], janus.processor.image_size, janus.processor.normalisation)
