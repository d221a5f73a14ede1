"""A picture as the reply in a conversation, drawn in the conversation's own sequence."""

from __future__ import annotations

from typing import Any

import torch

from . import memory
from .conversation import Conversation
from .errors import context_exceeded
from .generation.codes import FEATURE, Drawing
from .memory import Need
from .pipeline import Janus

READING = ("Understanding",)  # of memory.PARTS


@torch.no_grad()
def drawing_in(janus: Janus, conversation: Conversation, **settings: Any) -> Drawing:
    """The drawing of one picture, as the reply to the last message. `settings` are those of `Janus.drawing_of`.

    It follows all that was said and shown. The unconditional row is as long, and pads. Raises InputError for a conversation
    that leaves no room for a picture, and as `Janus.drawing_of` does.
    """
    processor, pictures = janus.processor, list(conversation.pictures)
    ids = [FEATURE if token == processor.image else token for token in _ids(janus, conversation)]
    features = None
    if pictures:
        with janus.working("reading the conversation's pictures", "drop old turns", [], rows=1):
            pixels = processor.pixels(pictures).to(janus.device, janus.dtype)
            features = janus.model.embed_images(pixels).flatten(0, 1)
    message = conversation.turns[-1]["content"]
    return janus.drawing_of(message, prompts=([*ids, processor.begin_of_image],), features=features, **settings)


def reading_need(janus: Janus, conversation: Conversation) -> Need:
    """What `drawing_in` itself needs on the device: to read the pictures. Raises InputError as it does."""
    _ids(janus, conversation)
    pictures = len(conversation.pictures)
    work = memory.answering_bytes(janus.model.config, janus.precision, rows=1, prompt=1, new=1, pictures=pictures)
    return Need(READING if pictures else (), work)


def _ids(janus: Janus, conversation: Conversation) -> list[int]:
    ids = janus.processor.question_prompt(list(conversation.turns), len(conversation.pictures))
    height, width = janus.model.config.grid
    new = height * width + 1
    if len(ids) + new > janus.context:
        cure = "drop old turns, or say it in fewer words"
        raise context_exceeded("conversation", used=len(ids), new=new, limit=janus.context, cure=cure)
    return ids
