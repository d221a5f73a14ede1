"""Pictures of a list of prompts, drawn in batches: each picture has its own prompt and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..generation.cache import attention_kernels
from ..generation.codes import CodeDraw, Drawing
from ..generation.context import Context
from ..generation.execution import Execution
from ..generation.image import DrawingStep
from ..generation.prefill import Prefilled
from ..generation.recorder import GraphedStep, side_stream
from ..generation.sampling import check_finite, seed_keys
from ..generation.self_check import decide
from ..model.janus import JanusModel
from ..pipeline import Janus
from ..tokens import ImageTokens
from .items import Item


class OwnPlaces(Prefilled):
    """Rows of pictures that have a prompt each. Every row is at its own place, and none is padded."""

    def __init__(self, model: JanusModel, drawings: list[Drawing], execution: Execution):
        first, device = drawings[0], execution.device
        self.guides, self.pads, self.visible = first.guides, None, None
        self.longest = max(len(one.prompt) for one in drawings)
        self.start: Any = torch.tensor([[len(one.prompt)] for one in drawings], device=device)
        prefixes = [one.prefixes[guide] for guide in range(self.guides) for one in drawings]  # of each row
        dtype = model.embed_text(torch.tensor([[0]], device=device)).dtype
        llama = model.language_model.model
        self.context = Context(llama, len(prefixes), self.longest + first.steps - 1, execution, dtype)
        self.hidden = torch.empty(len(prefixes), model.config.llama.hidden_size, dtype=dtype, device=device)
        by_length = sorted(range(len(prefixes)), key=lambda row: len(prefixes[row]))
        for length, rows in groupby(by_length, key=lambda row: len(prefixes[row])):
            alike = list(rows)
            prefix = Context(llama, len(alike), length, execution, dtype)
            embeds = model.embed_text(torch.tensor([prefixes[row] for row in alike], device=device))
            for row, last in zip(alike, prefix.read(embeds)[:, -1], strict=True):
                self.hidden[row] = last
            self.context.cache.put_rows(alike, prefix.cache)


class PromptsStep(DrawingStep):
    """A decode step of pictures that have a prompt and a seed each."""

    def __init__(self, model: JanusModel, drawings: list[Drawing], execution: Execution):
        first, count, device = drawings[0], len(drawings), execution.device
        self.model, self.rows = model, OwnPlaces(model, drawings, execution)
        self.longest, self.context = self.rows.longest, self.rows.context
        self.capacity = self.context.capacity
        self.draw = CodeDraw(replace(first, count=count), device, self.context.kernels)
        self.draw.keys = torch.cat([seed_keys(one.seed, 1, device) for one in drawings])
        self.ids = torch.zeros(count, first.steps, dtype=torch.long, device=device)
        self.index = torch.zeros(count, 1, dtype=torch.long, device=device)
        self.logits = model.gen_head(self.rows.hidden).clone()
        check_finite(self.logits)
        self._draw()


@torch.no_grad()
def draw_prompts(model: JanusModel, drawings: list[Drawing], execution: Execution) -> Tensor:
    """The codes, long [n, steps], of one picture of each drawing; but for prompt and seed these are alike.

    Each picture is the one that `image.draw_codes` gives alone. Raises CheckpointError if the logits are not finite.
    """
    steps, graphs = drawings[0].steps, execution.uses_graphs(model.drawing_parts)
    with attention_kernels(execution.device), side_stream(execution.device, graphs) as stream:
        step = PromptsStep(model, drawings, execution)
        run = GraphedStep(step, stream, step.rows.bucket)
        for drawn in range(1, steps):
            run(step.longest + drawn)
        check_finite(step.logits)
    return step.ids.clone()


def draw_each(janus: Janus, drawings: list[Drawing]) -> ImageTokens:
    """`draw_prompts`, by the fastest kernels of this machine. Raises as `Janus.draw` does."""
    model, count = janus.model, len(drawings)
    rows = replace(drawings[0], count=count).rows
    with janus.working(f"drawing a batch of {count}", "draw fewer at once", model.drawing_parts, rows=rows):
        sample = model.embed_text(torch.tensor(drawings[0].prefixes, device=janus.device))
        execution = decide(janus.execution, model.language_model.model, sample)
        return ImageTokens(draw_prompts(model, drawings, execution), model.config.grid, janus.codebook)


def draw_all(
    janus: Janus,
    items: Iterable[Item],
    *,
    batch: int,
    finished: Callable[[list[Item], Tensor], object],
    failed: Callable[[Item, InputError], object],
    **settings: Any,
) -> None:
    """Draw each item's prompt with its seed, `batch` at a time; `settings` are those of `Janus.generate`.

    `finished(items, pictures [n, H, W, 3])` is called after each batch, in order, `failed(item, error)` for a prompt that
    is empty or too long. Raises InputError for settings out of range, CheckpointError if the model computes NaN.
    """
    janus.drawing_of("a", **settings)  # what is wrong with the settings is no item's fault
    drawable = _drawable(janus, items, failed, settings)
    while some := list(islice(drawable, batch)):
        tokens = draw_each(janus, [drawing for _, drawing in some])
        finished([item for item, _ in some], janus.decode(tokens))


def _drawable(
    janus: Janus, items: Iterable[Item], failed: Callable[[Item, InputError], object], settings: dict[str, Any]
) -> Iterable[tuple[Item, Drawing]]:
    for item in items:
        try:
            yield item, janus.drawing_of(item.text, seed=item.seed, **settings)
        except InputError as error:
            failed(item, error)
