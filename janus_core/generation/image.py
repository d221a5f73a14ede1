"""Drawing: prompt ids -> picture codes, one code per picture and step."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.janus import JanusModel
from .cache import attention_kernels
from .codes import CodeDraw, Drawing
from .execution import Execution
from .prefill import Prefilled
from .recorder import GraphedStep, side_stream
from .sampling import check_finite

Progress = Callable[[int, int, Tensor], None]
READ = 64  # kept codes, of all pictures together, that one pass reads
# Called with all codes so far, [count, step], after each row of the picture but the last. Returns which pictures to
# continue, long [n], or None for all.
Cull = Callable[[Tensor], Tensor | None]


def read_lead(model: JanusModel, draw: CodeDraw, rows: Prefilled, progress: Progress | None) -> tuple[Tensor, Tensor]:
    """Read the codes that all pictures keep at their start, many in a pass, and note how likely they are.

    From the last hidden states of the prompts, [rows, D], to those of these codes. Returns the codes too, long [count, lead].
    `progress` is called after each pass, as by `draw_codes`.
    """
    drawing, hidden = draw.drawing, rows.hidden
    lead = drawing.kept.lead if drawing.kept else 0
    index = torch.arange(lead, device=hidden.device).expand(drawing.count, -1)
    codes = draw.kept.gather(1, index) if lead else index
    size = max(drawing.window, READ // drawing.count)
    for first in range(0, lead, size):
        end = min(first + size, lead)
        states = rows.step(model.embed_codes(codes[:, first:end]), index[:, first:end], rows.start + end)
        before = torch.cat((hidden[:, None], states[:, :-1]), dim=1)[: drawing.count]  # of the conditional rows
        draw.note(codes[:, first:end], model.gen_head(before), index[:, first:end])
        hidden = states[:, -1]
        if progress is not None:
            progress(end, drawing.steps, codes[:, :end])
    return hidden, codes


class DrawingStep:
    """One decode step and its state.

    The constructor prefills the prompt, reads the codes that are kept at the start, and draws the first code after them;
    each call draws the next code of every picture.
    """

    def __init__(self, model: JanusModel, drawing: Drawing, execution: Execution, progress: Progress | None = None):
        self.model, self.rows = model, Prefilled(model, drawing, execution, drawing.steps - 1)
        self.start, self.context = self.rows.start, self.rows.context
        self.capacity, device = self.context.capacity, execution.device
        self.draw = CodeDraw(drawing, device, self.context.kernels)
        hidden, kept = read_lead(model, self.draw, self.rows, progress)
        self.lead = kept.shape[1]
        self.ids = F.pad(kept, (0, drawing.steps - self.lead))
        self.index = torch.full((drawing.count, 1), self.lead, device=device)  # of the last code drawn
        self.logits = model.gen_head(hidden).clone()  # [rows, codes]
        check_finite(self.logits)
        self._draw()

    def __call__(self, end: int) -> None:
        embeds = self.model.embed_codes(self.ids.gather(1, self.index))
        self.logits.copy_(self.model.gen_head(self.rows.step(embeds, self.index, end)[:, -1]))
        self.index.add_(1)
        self._draw()

    def keep_pictures(self, pictures: Tensor) -> None:
        """Go on with some of the pictures, long [n]. What was recorded of this step is of no use any more."""
        count = len(self.ids)
        rows = torch.cat([pictures + i * count for i in range(self.rows.guides)])
        self.ids, self.index, self.logits = self.ids[pictures], self.index[pictures], self.logits[rows]
        self.draw.keep_pictures(pictures)
        self.rows.keep(rows)

    def _draw(self) -> None:
        logits = self.logits[:, None]
        codes = self.draw(logits, self.index)
        self.draw.note(codes, logits, self.index)
        self.ids.scatter_(1, self.index, codes)


@torch.no_grad()
def draw_codes(
    model: JanusModel,
    drawing: Drawing,
    execution: Execution,
    progress: Progress | None = None,
    *,
    cull: Cull | None = None,
) -> Tensor:
    """The pictures' codes, long [count, steps]. `progress(step, total, codes so far [count, step])` may raise to stop.

    With `cull`, the count becomes that of the pictures that are left. With CUDA graphs it synchronises once per row of the
    picture. Raises CheckpointError if the logits are not finite.
    """
    row = model.config.grid[1]
    graphs = execution.uses_graphs(model.drawing_parts)
    with attention_kernels(execution.device), side_stream(execution.device, graphs) as stream:
        step = DrawingStep(model, drawing, execution, progress)
        run = GraphedStep(step, stream, step.rows.bucket)
        for drawn in range(step.lead + 1, drawing.steps + 1):
            if progress is not None:
                if stream and drawn % row == 0:
                    stream.synchronize()
                progress(drawn, drawing.steps, step.ids[:, :drawn])
            if cull is not None and drawn % row == 0 and drawn < drawing.steps:
                if stream:
                    stream.synchronize()
                left = cull(step.ids[:, :drawn])
                if left is not None:
                    step.keep_pictures(left)
                    run = GraphedStep(step, stream, step.rows.bucket)
            if drawn < drawing.steps:
                run(step.start + drawn)
        check_finite(step.logits)  # a NaN in any step reaches the cache, so this check finds it
        step.draw.report()
    return step.ids.clone()
