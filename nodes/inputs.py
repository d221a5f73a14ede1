"""Inputs that several nodes share, and schema options that only newer ComfyUI versions know."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..janus_core.generation.sampling import MAX_SEED
from .types import JanusType

# Marks an input that newer ComfyUI versions fold away.
ADVANCED: dict[str, Any] = {"advanced": True} if "advanced" in inspect.signature(io.Int.Input).parameters else {}

MODEL = JanusType.Input("janus", tooltip="The model, from Load Janus.")
MAX_TOKENS = io.Int.Input(
    "max_tokens",
    default=256,
    min=1,
    max=8192,
    tooltip="The longest answer allowed, in tokens; a token is about three quarters of a word.",
)
ANSWER_TEMPERATURE = io.Float.Input(
    "temperature",
    default=0.0,
    min=0.0,
    max=2.0,
    step=0.05,
    tooltip="0 always picks the most likely token, so the answer is the same each time. Higher values vary the wording with "
    "the seed.",
)


def seed(tooltip: str, *, control_after_generate: bool) -> io.Int.Input:
    """A seed of 64 bits. With `control_after_generate` the canvas changes it after each run."""
    return io.Int.Input(
        "seed", default=0, min=0, max=MAX_SEED, control_after_generate=control_after_generate, tooltip=tooltip
    )


def problem_of(*checks: Callable[[], object]) -> bool | str:
    """What `validate_inputs` returns: the sentence of the first check that raises ValueError, else True."""
    try:
        for check in checks:
            check()
    except ValueError as error:
        return str(error)
    return True


def search_aliases(*words: str) -> dict[str, Any]:
    """More words to find a node by, as arguments of its Schema; empty where ComfyUI does not know `search_aliases`."""
    return _known(search_aliases=["deepseek", *words])


def shown_from_cache() -> dict[str, Any]:
    """Marks, in a Schema, a node whose `ui` is sent and kept in the history also when its run comes from the cache.

    Empty where ComfyUI does not know `has_intermediate_output`. Output nodes do not need it.
    """
    return _known(has_intermediate_output=True)


def _known(**options: Any) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(io.Schema)}
    return {name: value for name, value in options.items() if name in names}
