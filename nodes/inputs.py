"""Inputs that several nodes share, and schema options that only newer ComfyUI versions know."""

import dataclasses
import functools
import inspect
import numbers
from collections.abc import Callable
from typing import Any

import torch
from comfy_api.latest import io

from ..janus_core import ImageTokens, InputError
from ..janus_core.conversation import Conversation
from ..janus_core.generation.sampling import MAX_SEED
from .host.weights import HostedJanus
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

# What the inputs of the pack's nodes must be: ComfyUI lets other packs' nodes and API requests give anything.
_TEXT, _WHOLE, _NUMBER = (str, "text"), (numbers.Integral, "a whole number"), (numbers.Real, "a number")
KINDS: dict[str, tuple[type, str]] = {
    "janus": (HostedJanus, "a model from Load Janus"),
    "tokens": (ImageTokens, "picture tokens from Janus Text-to-Image"),
    "history": (Conversation, "the history of another Janus Chat"),
    "image": (torch.Tensor, "pictures"),
    **dict.fromkeys(("checkpoint", "dtype", "filename", "lora", "message", "prompt", "question", "sampler"), _TEXT),
    **dict.fromkeys(("batch_size", "drop_turns", "max_tokens", "seed", "top_k", "window"), _WHOLE),
    **dict.fromkeys(("cfg", "strength", "temperature", "top_p"), _NUMBER),
}


def check_kind(name: str, value: object) -> None:
    """Raise InputError if an input is not of the kind that KINDS has for its name."""
    kind, description = KINDS[name]
    if not isinstance(value, kind) or isinstance(value, bool):  # which Python counts among the whole numbers
        plain = value is None or isinstance(value, str | int | float)  # the others may be large
        given = repr(value)[:60] if plain else f"of the type {type(value).__name__}"
        raise InputError(f"The input {name} is {given} and must be {description}: connect or enter that.")


def checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """A node's `execute` that first checks what it is given by KINDS. An optional input may be None."""
    parameters = inspect.signature(execute).parameters

    @functools.wraps(execute)
    def check_then_execute(*values: Any, **named: Any) -> io.NodeOutput:
        given = dict(zip(parameters, values, strict=False)) | named
        for name, value in given.items():
            if name in KINDS and not (value is None and parameters[name].default is None):
                check_kind(name, value)
        return execute(*values, **named)

    return check_then_execute


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
    known = any(field.name == "search_aliases" for field in dataclasses.fields(io.Schema))
    return {"search_aliases": ["deepseek", *words]} if known else {}
