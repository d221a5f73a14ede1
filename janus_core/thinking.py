"""Think, then draw: the model says in words what it will draw, and draws from what it said, each as its dialect has it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import memory
from .errors import InputError, context_exceeded
from .generation import image, text
from .generation.codes import Drawing
from .generation.sampling import Sampling
from .generation.self_check import decide
from .memory import Need
from .pipeline import Janus
from .tokens import ImageTokens

THINKING = ("Language", "TextHead")  # of memory.PARTS
Progress = Callable[[int, int, list[list[int]]], None]


@dataclass(frozen=True)
class Thought:
    """What a model said before it drew: `ids` without the end of the sentence, and as text."""

    ids: list[int]
    text: str


@torch.no_grad()
def think(
    janus: Janus,
    prompt: str,
    count: int = 1,
    *,
    seed: int = 0,
    temperature: float | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> list[Thought]:
    """`count` thoughts about what to draw for `prompt`; thought i has seed + i and is the same in any batch.

    `temperature` and `max_tokens` are the dialect's own where they are None. `progress(step, total, ids so far of each)`
    may raise to stop. Raises InputError for an empty or too long prompt and settings out of range, CheckpointError if the
    model computes NaN.
    """
    how, processor = janus.processor.dialect.thinking, janus.processor
    ids, new = _prompt(janus, prompt, count, max_tokens)
    sampling = Sampling(how.temperature if temperature is None else temperature, how.top_k)
    alone = [janus.model.language_model] if count == 1 else []
    with janus.working(f"thinking about {count} pictures", "draw fewer at once", alone, rows=1):
        embeds, mask = janus.embed_prompts([ids], [])
        rows = text.answer_ids(
            janus.model,
            embeds.expand(count, -1, -1),
            mask.expand(count, -1),
            decide(janus.execution, janus.model.language_model.model, embeds),
            eos=processor.eos,
            max_new_tokens=new,
            seed=seed,
            sampling=sampling,
            progress=progress,
        )
    return [Thought(row, processor.decode(row)) for row in rows]


def thinking_need(janus: Janus, prompt: str, count: int = 1, *, max_tokens: int | None = None) -> Need:
    """What `think` needs on the device. Raises InputError as it does."""
    ids, new = _prompt(janus, prompt, count, max_tokens)
    sizes = {"rows": count, "prompt": len(ids), "new": new, "pictures": 0}
    return Need(THINKING, memory.answering_bytes(janus.model.config, janus.precision, **sizes))


def _prompt(janus: Janus, prompt: str, count: int, max_tokens: int | None) -> tuple[list[int], int]:
    """The ids to think after, and how many may follow: where the context is short, as many as leave room to draw."""
    if count < 1:
        raise InputError(f"The batch size is {count}: ask for at least one picture.")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"The thought may take {max_tokens} tokens: give at least 1 as max_tokens.")
    how, ids = janus.processor.dialect.thinking, janus.processor.thinking_prompt(prompt)
    drawn = math.prod(janus.model.config.grid) if how.drawing is None else 0
    room = janus.context - len(ids) - drawn
    if room < 2:
        cure = "shorten the prompt or turn thinking off"
        raise context_exceeded("prompt to think about", used=len(ids), new=drawn + 2, limit=janus.context, cure=cure)
    return ids, min(room, how.max_tokens if max_tokens is None else max_tokens)


def drawing_from(janus: Janus, prompt: str, thoughts: list[Thought], **settings: Any) -> Drawing:
    """The drawing of one picture for each thought about `prompt`. `settings` are those of `Janus.drawing_of`.

    Raises InputError as that does, and when a thought leaves nothing to draw.
    """
    own = tuple(janus.processor.thought_prompt(prompt, thought.ids) for thought in thoughts)
    return janus.drawing_of(prompt, len(thoughts), prompts=own, **settings)


def think_and_draw(
    janus: Janus,
    prompt: str,
    count: int = 1,
    *,
    seed: int = 0,
    thinking: Progress | None = None,
    progress: image.Progress | None = None,
    **settings: Any,
) -> tuple[ImageTokens, list[Thought]]:
    """`count` pictures of `prompt`, each from a thought of its own, and the thoughts; picture i has seed + i for both.

    `thinking` is the `progress` of `think`; the others are arguments of `Janus.generate`. Raises as both do.
    """
    thoughts = think(janus, prompt, count, seed=seed, progress=thinking)
    return janus.draw(drawing_from(janus, prompt, thoughts, seed=seed, **settings), progress), thoughts


def better_prompt(janus: Janus, prompt: str, thought: Thought) -> str:
    """A prompt for any model that draws: the thought, with the prompt where the dialect joins the two."""
    drawing = janus.processor.dialect.thinking.drawing or "{thought}"
    return drawing.format(prompt=prompt.strip(), thought=thought.text).strip()
