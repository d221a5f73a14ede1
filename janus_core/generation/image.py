"""Drawing: prompt ids -> picture codes, one code per picture and step."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .cache import attention_kernels
from .context import Context
from .execution import Execution
from .recorder import GraphedStep, side_stream
from .sampling import Sampling, check_finite, draw_tokens, guide, seed_keys

Progress = Callable[[int, int, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What to draw: `count` pictures of `steps` codes.

    `prompt` are ids that end with begin_of_image; `pad` replaces them in the unconditional prompt. Picture i uses
    seed + i and does not depend on the others. `window` is how many codes a pass of jacobi reads, 1 for a plain step.
    """

    prompt: list[int]
    pad: int
    steps: int
    count: int = 1
    seed: int = 0
    cfg_weight: float = 5.0
    sampling: Sampling = field(default_factory=Sampling)
    window: int = 1

    @property
    def prefixes(self) -> list[list[int]]:
        """The prompts to prefill: the conditional one, and the unconditional one unless the CFG weight is 1."""
        return [self.prompt] if self.cfg_weight == 1 else [self.prompt, unconditional(self.prompt, self.pad)]

    @property
    def rows(self) -> int:
        """Tokens per forward pass: pictures x prefixes x window."""
        return self.count * len(self.prefixes) * self.window


def unconditional(prompt: list[int], pad: int) -> list[int]:
    """The prompt with all but its first and last token padded; the pads are attended, as in training."""
    return [prompt[0], *[pad] * (len(prompt) - 2), prompt[-1]]


def prefill(model: JanusModel, drawing: Drawing, execution: Execution, room: int) -> tuple[Tensor, Context]:
    """Read each prefix once and copy it to `count` rows.

    Returns the last hidden states [rows, D], and a context of these rows with `room` more slots.
    """
    llama = model.language_model.model
    embeds = model.embed_text(torch.tensor(drawing.prefixes, device=execution.device))
    copies, length = len(embeds), embeds.shape[1]
    prefix = Context(llama, copies, length, execution, embeds.dtype)
    hidden = prefix.read(embeds)[:, -1].repeat_interleave(drawing.count, dim=0)
    context = Context(llama, copies * drawing.count, length + room, execution, embeds.dtype)
    context.cache.copy_rows(prefix.cache, drawing.count)
    return hidden, context


def picture_logits(model: JanusModel, hidden: Tensor, cfg_weight: float) -> Tensor:
    """Hidden states [rows, ..., D] -> guided logits [pictures, ..., codes]; at CFG weight 1 each row is a picture."""
    logits = model.gen_head(hidden)
    if cfg_weight == 1:
        return logits
    cond, uncond = logits.chunk(2)
    return guide(cond, uncond, cfg_weight)


class DrawingStep:
    """One decode step and its state.

    The constructor prefills the prompt and draws the first code; each call draws the next code of every picture.
    """

    def __init__(self, model: JanusModel, drawing: Drawing, execution: Execution):
        self.model, self.drawing, self.start = model, drawing, len(drawing.prompt)
        hidden, self.context = prefill(model, drawing, execution, drawing.steps - 1)
        self.capacity, device = self.context.capacity, execution.device
        self.keys = seed_keys(drawing.seed, drawing.count, device)
        self.ids = torch.zeros(drawing.count, drawing.steps, dtype=torch.long, device=device)
        self.index = torch.zeros(drawing.count, 1, dtype=torch.long, device=device)  # of the last code drawn
        self.logits = picture_logits(model, hidden, drawing.cfg_weight).clone()
        check_finite(self.logits)
        self._draw()

    def __call__(self, end: int) -> None:
        copies = len(self.drawing.prefixes)
        slots = (self.index + self.start).repeat(copies, 1)  # [rows, 1]
        embeds = self.model.embed_codes(self.ids.gather(1, self.index)).repeat(copies, 1, 1)
        hidden = self.context.step(embeds, slots, end)
        self.logits.copy_(picture_logits(self.model, hidden[:, -1], self.drawing.cfg_weight))
        self.index.add_(1)
        self._draw()

    def _draw(self) -> None:
        logits, sampling = self.logits[:, None], self.drawing.sampling
        drawn = draw_tokens(logits, sampling, self.keys, self.index, self.context.kernels)
        self.ids.scatter_(1, self.index, drawn)


@torch.no_grad()
def draw_codes(model: JanusModel, drawing: Drawing, execution: Execution, progress: Progress | None = None) -> Tensor:
    """The pictures' codes, long [count, steps]. `progress(step, total, codes so far [count, step])` may raise to stop.

    With CUDA graphs it synchronises once per row of the picture. Raises CheckpointError if the logits are not finite.
    """
    row = model.config.grid[1]
    graphs = execution.uses_graphs(model.drawing_parts)
    with attention_kernels(execution.device), side_stream(execution.device, graphs) as stream:
        step = DrawingStep(model, drawing, execution)
        # Triton's kernels skip slots that are not filled yet, so one graph serves the whole drawing.
        run = GraphedStep(step, stream, step.capacity if step.context.kernels else None)
        for drawn in range(1, drawing.steps + 1):
            if progress is not None:
                if stream and drawn % row == 0:
                    stream.synchronize()
                progress(drawn, drawing.steps, step.ids[:, :drawn])
            if drawn < drawing.steps:
                run(step.start + drawn)
        check_finite(step.logits)  # a NaN in any step reaches the cache, so this check finds it
    return step.ids.clone()
