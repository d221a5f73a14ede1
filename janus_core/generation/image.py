"""Drawing: prompt ids -> picture codes, one code per picture and step."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..model.janus import JanusModel
from .cache import attention_kernels
from .codes import CodeDraw, Drawing
from .execution import Execution
from .prefill import Prefilled
from .recorder import GraphedStep, side_stream
from .sampling import check_finite

Progress = Callable[[int, int, Tensor], None]


class DrawingStep:
    """One decode step and its state.

    The constructor prefills the prompt and draws the first code; each call draws the next code of every picture.
    """

    def __init__(self, model: JanusModel, drawing: Drawing, execution: Execution):
        self.model, self.rows = model, Prefilled(model, drawing, execution, drawing.steps - 1)
        self.start, self.context = self.rows.start, self.rows.context
        self.capacity, device = self.context.capacity, execution.device
        self.draw = CodeDraw(drawing, device, self.context.kernels)
        self.ids = torch.zeros(drawing.count, drawing.steps, dtype=torch.long, device=device)
        self.index = torch.zeros(drawing.count, 1, dtype=torch.long, device=device)  # of the last code drawn
        self.logits = model.gen_head(self.rows.hidden).clone()  # [rows, codes]
        check_finite(self.logits)
        self._draw()

    def __call__(self, end: int) -> None:
        embeds = self.model.embed_codes(self.ids.gather(1, self.index))
        self.logits.copy_(self.model.gen_head(self.rows.step(embeds, self.index, end)[:, -1]))
        self.index.add_(1)
        self._draw()

    def _draw(self) -> None:
        logits = self.logits[:, None]
        codes = self.draw(logits, self.index)
        self.draw.note(codes, logits, self.index)
        self.ids.scatter_(1, self.index, codes)


@torch.no_grad()
def draw_codes(model: JanusModel, drawing: Drawing, execution: Execution, progress: Progress | None = None) -> Tensor:
    """The pictures' codes, long [count, steps]. `progress(step, total, codes so far [count, step])` may raise to stop.

    With CUDA graphs it synchronises once per row of the picture. Raises CheckpointError if the logits are not finite.
    """
    row = model.config.grid[1]
    graphs = execution.uses_graphs(model.drawing_parts)
    with attention_kernels(execution.device), side_stream(execution.device, graphs) as stream:
        step = DrawingStep(model, drawing, execution)
        run = GraphedStep(step, stream, step.rows.bucket)
        for drawn in range(1, drawing.steps + 1):
            if progress is not None:
                if stream and drawn % row == 0:
                    stream.synchronize()
                progress(drawn, drawing.steps, step.ids[:, :drawn])
            if drawn < drawing.steps:
                run(step.start + drawn)
        check_finite(step.logits)  # a NaN in any step reaches the cache, so this check finds it
        step.draw.report()
    return step.ids.clone()
