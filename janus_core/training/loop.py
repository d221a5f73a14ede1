"""What the training loops of all phases share: the learning rate, the optimiser step, and states on disk."""

from pathlib import Path

import torch
from torch import Tensor, nn

ADAM_BETAS = (0.9, 0.95)
MAX_GRADIENT_NORM = 1.0


def learning_rate_at(step: int, *, peak: float, warm_up: int, steps: int, decay: float) -> float:
    """Linear warm-up over `warm_up` steps, a plateau, and a linear fall to 0 over the last `decay` share of `steps`."""
    falling = max((steps - step) / (steps * decay), 0.0) if decay else 1.0
    return peak * min((step + 1) / max(warm_up, 1), 1.0, falling)


def optimizer_step(optimizer: torch.optim.Optimizer, rate: float) -> Tensor:
    """Clip the gradients, take a step at this learning rate and clear them. Returns their norm before clipping."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    norm = nn.utils.clip_grad_norm_(weights, MAX_GRADIENT_NORM)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def write_state(state: dict, path: Path) -> None:
    """Write a state in full or not at all: an interrupted write leaves the file that was there before."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
