"""The prompts of a drawing, read once each and copied to the rows that draw from them."""

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .codes import FEATURE, HIDDEN, Drawing
from .context import Context
from .execution import Execution
from .text import padded_mask


def embed_prefixes(model: JanusModel, drawing: Drawing, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The prefixes' embeddings [prefixes, T, D], padded on the left, and where there are tokens to see.

    That is bool [prefixes, T], None if it is everywhere.
    """
    prefixes, length = drawing.prefixes, drawing.length
    rows = [[HIDDEN] * (length - len(prefix)) + prefix for prefix in prefixes]
    ids = torch.tensor(rows, device=device)
    found = {token for row in rows for token in row}  # known without waiting for the device
    embeds = model.embed_text(ids.masked_fill(ids < 0, drawing.pad) if min(found) < 0 else ids)
    if drawing.features is not None:
        embeds[ids == FEATURE] = drawing.features.to(embeds)
    return embeds, ids != HIDDEN if HIDDEN in found else None


class Prefilled:
    """The rows of a drawing after their prompts: all pictures under the first guide, all under the second, and so on.

    `hidden` are the last hidden states [rows, D]; `context` has `room` more slots.
    """

    def __init__(self, model: JanusModel, drawing: Drawing, execution: Execution, room: int):
        llama, device = model.language_model.model, execution.device
        self.guides, self.start = drawing.guides, drawing.length
        embeds, seen = embed_prefixes(model, drawing, device)
        prefixes = len(embeds)
        copies = drawing.guides * drawing.count // prefixes
        prefix = Context(llama, prefixes, self.start, execution, embeds.dtype)
        positions = looks = None
        self.pads: Tensor | None = None  # how far positions are behind slots, long [rows, 1]
        self.visible: Tensor | None = None  # the slots that steps may look at
        if seen is not None:
            pads = seen.int().argmax(dim=1, keepdim=True)  # before the first token; a place left out within counts
            positions, looks = (torch.arange(self.start, device=device) - pads).clamp(min=0), padded_mask(seen)
            self.pads = pads.repeat_interleave(copies, dim=0)
        self.hidden = prefix.read(embeds, positions, looks)[:, -1].repeat_interleave(copies, dim=0)
        looks = None  # it is large
        self.context = Context(llama, prefixes * copies, self.start + room, execution, embeds.dtype)
        self.context.cache.copy_rows(prefix.cache, torch.arange(prefixes, device=device).repeat_interleave(copies))
        if seen is not None:
            later = seen.new_ones(prefixes, self.context.capacity - self.start)
            self.visible = torch.cat((seen, later), dim=1).repeat_interleave(copies, dim=0)[:, None, None]

    @property
    def bucket(self) -> int | None:
        """For GraphedStep: Triton's kernels skip slots that are not filled yet, so one graph serves the whole drawing."""
        return self.context.capacity if self.context.kernels and self.visible is None else None

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows, long [n]."""
        self.context.keep_rows(rows)
        self.pads = None if self.pads is None else self.pads[rows]
        self.visible = None if self.visible is None else self.visible[rows]

    def step(self, embeds: Tensor, index: Tensor, end: int) -> Tensor:
        """Read the codes at `index`, long [count, T], under all guides: embeddings [count, T, D] -> hidden states [rows, T, D]."""
        slots = (index + self.start).repeat(self.guides, 1)
        positions = None if self.pads is None else slots - self.pads
        embeds = embeds.repeat(self.guides, 1, 1)
        return self.context.step(embeds, slots, end, positions=positions, visible=self.visible)
