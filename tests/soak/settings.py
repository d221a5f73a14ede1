"""Odd prompts and settings, each made by random numbers, as the Python functions and the nodes' inputs take them."""

from __future__ import annotations

import math
from random import Random
from typing import Any

from janus_core.processing import BEGIN_OF_IMAGE, BOS, END_OF_IMAGE, EOS, IMAGE_TAG, PAD

PIECES = (
    *(BOS, EOS, PAD, BEGIN_OF_IMAGE, END_OF_IMAGE, IMAGE_TAG, "<|User|>", "<|Assistant|>", "<|User", "User: ", "\n\n"),
    *(
        "a red circle",
        " at the center",
        "{a|b}",
        "{",
        "}",
        "\\",
        '"',
        "'",
        "%s",
        "{0}",
        "$(x)",
        "<b>",
        "__import__('os')",
    ),
    *(
        "",
        " ",
        "\t",
        "\r",
        "\0",
        "\x1b[2J",
        "\x7f",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\ufffe",
        "\uffff",
        "\ud800",
        "\udfff",
    ),
    *("é", "e\u0301", "日本語", "العربية", "🎨", "👩‍👩‍👧", "\U0010ffff", "a" * 3000, "x " * 3000, "🎨" * 500),
)
# Values for settings that are numbers; batches and answers that would only take long are left out.
WHOLE = (-(2**70), -(2**63), -1, 0, 1, 2, 3, 2**31, 2**32, 2**40, 2**53, 2**62, 2**63, 2**64 - 1, 2**64, 2**70, 10**300)
NUMBERS = (
    *(math.nan, math.inf, -math.inf, -1.0, -1e-320, 0.0, 1e-320, 1e-30, 1e-5, 0.5, 0.999999, 1.0, 1.000001, 2.0, 5.0),
    *(30.0, 1e30, 1e38, 1e39, 1e308, 0, 1, 2**70, 10**400),
)
DRAWING: dict[str, tuple[Any, ...]] = {
    "count": WHOLE,
    "seed": WHOLE,
    "cfg_weight": (*NUMBERS, None),
    "temperature": (*NUMBERS, None),
    "top_k": WHOLE,
    "top_p": NUMBERS,
    "min_p": (*NUMBERS, None),
    "cfg_end": (*NUMBERS, None),
    "cfg_power": NUMBERS,
    "entropy_temperature": NUMBERS,
    "sampler": ("sequential", "jacobi", "jacobi", "", "x\n", "JACOBI", "\ud800"),
    "window": WHOLE,
}
ASKING: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (*WHOLE, 900, 1024),
    "temperature": NUMBERS,
    "seed": WHOLE,
}
SHAPES = ((), (3,), (8, 8, 3), (0, 8, 8, 3), (1, 0, 8, 3), (1, 8, 8, 4), (1, 8, 8, 3), (1, 1, 4000, 3))


def odd_text(draw: Random) -> str:
    """A prompt of pieces that are special somewhere: to the tokenizer, to Python, to a terminal, or in Unicode."""
    return "".join(draw.choice(PIECES) for _ in range(draw.choice((1, 1, 2, 5, 30))))


def odd_settings(draw: Random) -> tuple[dict[str, Any], dict[str, Any], tuple[int, ...] | None]:
    """Settings for a drawing and for a question, and the shape of a picture of NaN or None."""
    drawing = {name: draw.choice(DRAWING[name]) for name in draw.sample(sorted(DRAWING), draw.choice((0, 1, 1, 2, 5)))}
    asking: dict[str, Any] = {"max_new_tokens": 3}
    asking |= {name: draw.choice(ASKING[name]) for name in draw.sample(sorted(ASKING), draw.choice((0, 1)))}
    if draw.random() < 0.6:
        drawing["prompt"] = odd_text(draw)
    if draw.random() < 0.6:
        asking["question"] = odd_text(draw) if draw.random() < 0.6 else _odd_turns(draw)
    return drawing, asking, draw.choice(SHAPES) if draw.random() < 0.1 else None


def _odd_turns(draw: Random) -> list[dict[str, str]]:
    roles = ("user", "assistant", "user", "assistant", "system", "")
    return [{"role": draw.choice(roles), "content": odd_text(draw)} for _ in range(draw.randrange(4))]
