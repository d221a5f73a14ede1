"""The three stages as data: what is trained, how fast, for how long, and on which mix (Janus-Pro, Table 2)."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ..errors import InputError

KINDS = ("understanding", "text", "generation")
ADAPTORS = ("aligner", "gen_embed", "gen_aligner", "gen_head")
WITH_LANGUAGE = (*ADAPTORS, "language_model")
WITH_VISION = (*WITH_LANGUAGE, "vision_model")
Recipe = TypeVar("Recipe", bound=Any)


@dataclass(frozen=True, kw_only=True)
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
    ema: float = 0.0  # decay of the exponential moving average of the weights; 0 = off


def with_settings(recipe: Recipe, phase: str, settings: dict[str, Any]) -> Recipe:
    """The recipe of a phase with these settings changed. Raises InputError for a setting that the phase does not have."""
    names = [field.name for field in fields(recipe)]
    unknown = set(settings) - set(names)
    if unknown:
        raise InputError(f"{phase} has no setting {min(unknown)!r}: it has {', '.join(names)}.")
    return replace(recipe, **settings)


PAPER = {
    "stage1": Stage(trained=ADAPTORS, learning_rate=1e-3, warm_up=600, steps=20_000, batch=256, mix=(1, 0, 3)),
    "stage2": Stage(trained=WITH_LANGUAGE, learning_rate=1e-4, warm_up=5000, steps=270_000, batch=512, mix=(2, 3, 5)),
    "stage3": Stage(trained=WITH_VISION, learning_rate=4e-5, warm_up=0, steps=80_000, batch=128, mix=(5, 1, 4)),
}
