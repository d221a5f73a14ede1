"""The three stages as data: what is trained, how fast, for how long, and on which mix (Janus-Pro, Table 2)."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ..errors import InputError

KINDS = ("understanding", "text", "generation")
ADAPTORS = ("aligner", "gen_embed", "gen_aligner", "gen_head")
WITH_LANGUAGE = (*ADAPTORS, "language_model")
WITH_VISION = (*WITH_LANGUAGE, "vision_model")
Recipe = TypeVar("Recipe", bound=Any)


@dataclass(frozen=True)
class Stage:
    """One stage. `trained` names the parts of JanusModel that learn; every other part stays bit for bit the same.

    `mix` is the share of samples of each kind (understanding : text : generation). `micro_batch` is the number of
    samples in one forward pass; the gradients of a step's micro-batches are summed. The learning rate warms up over
    `warm_up` steps and falls to 0 over the last `decay` share of the steps (0: constant, as in the paper).
    """

    trained: tuple[str, ...]
    learning_rate: float
    warm_up: int
    steps: int
    batch: int
    mix: tuple[float, float, float]
    decay: float = 0.0
    micro_batch: int = 16
    weight_decay: float = 0.0
    condition_drop: float = 0.1
    ema: float = 0.0  # share of the running mean of the weights that each step keeps; 0 = no mean


def with_settings(recipe: Recipe, phase: str, settings: dict[str, Any]) -> Recipe:
    """The recipe of a phase with these settings changed. Raises InputError for a setting that the phase does not have."""
    names = [field.name for field in fields(recipe)]
    unknown = set(settings) - set(names)
    if unknown:
        raise InputError(f"{phase} has no setting {min(unknown)!r}: it has {', '.join(names)}.")
    return replace(recipe, **settings)


PAPER = {
    "stage1": Stage(ADAPTORS, 1e-3, 600, 20_000, 256, (1, 0, 3)),
    "stage2": Stage(WITH_LANGUAGE, 1e-4, 5000, 270_000, 512, (2, 3, 5)),
    "stage3": Stage(WITH_VISION, 4e-5, 0, 80_000, 128, (5, 1, 4)),
}
MINI = {
    "stage1": Stage(ADAPTORS, 5e-4, 20, 40, 16, (1, 0, 3)),
    "stage2": Stage(WITH_LANGUAGE, 1.2e-3, 200, 20_000, 16, (4, 1, 4), decay=0.6, micro_batch=4, ema=0.9998),
    "stage3": Stage(WITH_VISION, 2e-4, 30, 1500, 16, (5, 1, 4), decay=1.0, micro_batch=4, ema=0.998),
}
