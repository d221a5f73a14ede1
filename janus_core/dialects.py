"""How each published Janus wants to be spoken to: the fine-tunes have Janus-Pro's tensors and other words.

The words of a fine-tune are those of its authors' own inference code, character for character; a model was trained on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .defaults import SECTION, DrawingDefaults
from .errors import CheckpointError, InputError, shown
from .weights.checkpoint import CheckpointFiles

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """A turn of words before a picture is drawn.

    In `question` and `drawing`, {prompt} is the user's prompt, and in `drawing` {thought} what the model said. `drawing` is
    the prompt of a new drawing; None draws on in the thought's own sequence, where its end becomes begin_of_image.
    A thought has at most `max_tokens`, drawn with `temperature` and `top_k`, 0 being off.
    """

    question: str
    system: str
    drawing: str | None
    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0


# For models whose authors have none. It is this pack's own.
REWRITING = Thinking(
    question=(
        "Rewrite this prompt for a picture as one or two plain sentences. Say what is in the picture: every object with its "
        "number, colour, size and place, then the background and the light. Keep all that the prompt asks for, and answer "
        "with the new prompt only. The prompt: {prompt}"
    ),
    system=SYSTEM_PROMPT,
    drawing="{thought}",
    max_tokens=256,
)


@dataclass(frozen=True, kw_only=True)
class Review:
    """How a model looks at its own picture and draws a second one in the same sequence.

    `question` follows the first picture, `again` follows the end of its answer, which begins with "Yes" or "No".
    """

    question: str
    again: str


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """`mark` is what the names of its checkpoints contain, in small letters. `edits` says that it was trained to edit
    pictures. `plain_roles` are User and Assistant as text, where other dialects have a token for each."""

    name: str
    mark: str
    plain_roles: bool = False
    thinking: Thinking = REWRITING
    review: Review | None = None
    edits: bool = False
    drawing: DrawingDefaults = field(default_factory=DrawingDefaults)


JANUS_PRO = Dialect(name="Janus-Pro", mark="")
# Of two marks in one name, the first listed counts.
DIALECTS = (
    Dialect(name="Janus-1.3B", mark="1.3b", plain_roles=True),
    Dialect(name="Janus-4o", mark="janus-4o", edits=True),
    Dialect(
        name="T2I-R1",
        mark="t2i-r1",
        plain_roles=True,
        thinking=Thinking(
            question=(
                'You are asked to generate an image based on this prompt: "{prompt}"\n'
                "Provide a brief, precise visualization of all elements in the prompt. Your description should:\n"
                "1. Include every object mentioned in the prompt\n"
                "2. Specify visual attributes (color, number, shape, texture) if specified in the prompt\n"
                "3. Clarify relationships (e.g., spatial) between objects if specified in the prompt\n"
                "4. Be concise (50 words or less)\n"
                "5. Focus only on what's explicitly stated in the prompt\n"
                "6. Do not elaborate beyond the attributes or relationships specified in the prompt\n"
                "Do not miss objects. Output your visualization directly without explanation:"
            ),
            system="You are a helpful assistant that receives an image prompt and generate a visualization of the prompt.",
            drawing="{prompt}. {thought}",
            max_tokens=512,
            top_k=50,  # what transformers' `generate` does there unasked
        ),
    ),
    Dialect(
        name="Janus-Pro-R1",
        mark="janus-pro-r1",
        review=Review(
            question="\nLet me think Does this image match the prompt...",
            again="\nNext, I will draw a new image",
        ),
    ),
    Dialect(
        name="ReasonGen-R1",
        mark="reasongen",
        thinking=Thinking(
            question="A photo of {prompt}. Output a richly detailed prompt:",
            system="",
            drawing=None,
            max_tokens=448,  # of 1024 together with the picture's 576
        ),
    ),
    Dialect(name="FocusDiff", mark="focusdiff", drawing=DrawingDefaults(top_k=1)),
    JANUS_PRO,
)
NAMES = tuple(dialect.name for dialect in DIALECTS)


def dialect_of(files: CheckpointFiles, name: str | None = None) -> Dialect:
    """A checkpoint's dialect: the one of that name, else what its files tell, else what its own name tells.

    The files tell in `generation_config.json`, as `dialect` under `janus`. Without any of these it is Janus-Pro.
    Raises InputError for an unknown `name`, CheckpointError for one in the files.
    """
    if name is not None:
        if name not in NAMES:
            raise InputError(f"There is no dialect {shown(repr(name))}: choose {', '.join(NAMES)}.")
        return _named(name)
    section = files.read_json("generation_config.json").get(SECTION)
    told = section.get("dialect") if isinstance(section, dict) else None
    if told is None:
        return dialect_by_name(files.names)
    if told not in NAMES:
        raise CheckpointError(
            f"{files.describe('generation_config.json')} names the dialect {shown(repr(told))}: there are "
            f"{', '.join(NAMES)}, so correct or remove it."
        )
    return _named(told)


def dialect_by_name(names: Iterable[str]) -> Dialect:
    """The dialect that one of a checkpoint's `names` tells; Janus-Pro when none does."""
    spelled = [name.lower().replace("_", "-") for name in names]
    return next(dialect for dialect in DIALECTS if any(dialect.mark in name for name in [*spelled, ""]))


def _named(name: str) -> Dialect:
    return next(dialect for dialect in DIALECTS if dialect.name == name)
