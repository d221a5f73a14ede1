"""Exact Jacobi decoding: guess several codes ahead, check them all in one pass, keep those that come out the same.

Why it is exact (Song et al. 2021, "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving"):

1. The noise of a draw is fixed by (seed, position, code). So a code is a function of the codes before it.
2. A pass reads the last kept code and the guesses after it. Its first draw follows kept codes only: it is the code that
   the sequential sampler draws.
3. Where a draw equals its guess, the next draw too has followed the right codes. By induction all draws up to and
   including the first that differs from its guess are right, and are kept.
4. Guesses decide only how many passes are needed.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.janus import JanusModel
from .cache import attention_kernels
from .codes import CodeDraw, Drawing
from .execution import Execution
from .image import Progress, read_lead
from .prefill import Prefilled
from .recorder import GraphedStep, side_stream
from .sampling import check_finite


class JacobiPass:
    """One pass and its state. Each call accepts the codes that it verifies, and guesses those that follow."""

    def __init__(self, model: JanusModel, drawing: Drawing, execution: Execution, progress: Progress | None = None):
        self.model, self.drawing, self.guides = model, drawing, drawing.guides
        count, steps, window = drawing.count, drawing.steps, drawing.window
        self.rows = Prefilled(model, drawing, execution, steps + window)
        self.start, self.context = self.rows.start, self.rows.context
        self.capacity, device = self.context.capacity, execution.device
        self.ahead = torch.arange(window, device=device)
        self.draw = CodeDraw(drawing, device, self.context.kernels)
        hidden, kept = read_lead(model, self.draw, self.rows, progress)
        lead = kept.shape[1]
        self.ids = F.pad(kept, (0, steps + 2 * window - lead))  # accepted codes, then guesses
        self.done = torch.full((count, 1), lead, device=device)  # codes accepted, of each picture
        self.logits = model.gen_head(hidden)[:, None]  # of the first code that a pass checks
        check_finite(self.logits)
        self._keep(self.logits.clone(), self.done)

    def __call__(self, end: int) -> None:
        """Read the last kept code of each picture and the guesses after it."""
        inputs = self.done - 1 + self.ahead  # [count, window]
        logits = self.model.gen_head(self.rows.step(self.model.embed_codes(self.ids.gather(1, inputs)), inputs, end))
        self.logits.copy_(logits[:, :1])
        self._keep(logits, inputs + 1)

    def _keep(self, logits: Tensor, indices: Tensor) -> None:
        """Accept the verified draws and guess the rest, from logits [rows, T, codes] of the codes at `indices` [count, T]."""
        drawn = self.draw(logits, indices)
        self.draw.note(drawn, logits, indices)
        right = drawn[:, :-1] == self.ids.gather(1, indices[:, :-1])
        accepted = 1 + right.long().cumprod(dim=1).sum(dim=1, keepdim=True)
        # The next guesses, drawn with the noise that will decide:
        # 1. Logits after a wrong guess depend on it. Averaging them with the last valid logits gave the best guesses.
        # 2. Beyond the window only the last valid logits exist.
        # 3. The average is of the head's own logits: a code that min-p excludes is -inf, which no average moves.
        # The average is taken in place: a copy would be the largest tensor of the pass.
        at = (accepted - 1).repeat(self.guides, 1)[..., None].expand(-1, -1, logits.shape[-1])
        last = logits.gather(1, at)
        guessed = self.draw(logits.lerp_(last, 0.5), indices)
        kept = torch.arange(indices.shape[1], device=indices.device) < accepted
        self.ids.scatter_(1, indices, torch.where(kept, drawn, guessed))
        beyond = indices[:, -1:] + 1 + self.ahead
        self.ids.scatter_(1, beyond, self.draw(last.expand(-1, len(self.ahead), -1), beyond))
        self.done.add_(accepted).clamp_(max=self.drawing.steps)


@torch.no_grad()
def draw_codes_jacobi(
    model: JanusModel, drawing: Drawing, execution: Execution, progress: Progress | None = None
) -> Tensor:
    """The codes of `draw_codes`, long [count, steps], in fewer passes of `drawing.window` codes each.

    Each picture advances at its own pace; `progress` gets the slowest one's step. Raises CheckpointError if the logits are
    not finite.
    """
    steps = drawing.steps
    graphs = execution.uses_graphs(model.drawing_parts)
    with attention_kernels(execution.device), side_stream(execution.device, graphs) as stream:
        state = JacobiPass(model, drawing, execution, progress)
        run = GraphedStep(state, stream)
        while True:
            done = state.done[:, 0].tolist()
            slowest, fastest = min(done), max(done)
            if progress is not None:
                progress(slowest, steps, state.ids[:, :slowest])
            if slowest == steps:
                break
            run(state.start + fastest - 1 + drawing.window)
        check_finite(state.logits)
        state.draw.report()
    return state.ids[:, :steps].clone()
