"""A conversation as a value: turns and the pictures they are about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .errors import InputError, context_exceeded
from .pipeline import Janus
from .processing import IMAGE_TAG, Turn, count_tags


@dataclass(frozen=True)
class Conversation:
    """Alternating `turns` of user and assistant. `pictures` [H, W, 3] take the places of `<image_placeholder>` in the user's,
    and of the assistant's that were drawn."""

    turns: tuple[Turn, ...] = ()
    pictures: tuple[Tensor, ...] = ()

    def ask(self, message: str, pictures: list[Tensor]) -> Conversation:
        """The conversation with a new message, about new pictures if any. Raises InputError for an empty message."""
        if not message.replace(IMAGE_TAG, "").strip():
            raise InputError("The message is empty: say or ask something.")
        if message.count(IMAGE_TAG) != len(pictures):
            message = f"{IMAGE_TAG}\n" * len(pictures) + message.replace(IMAGE_TAG, "").strip()
        return Conversation((*self.turns, {"role": "user", "content": message}), (*self.pictures, *pictures))

    def with_answer(self, answer: str) -> Conversation:
        """The conversation with the model's answer."""
        return Conversation((*self.turns, {"role": "assistant", "content": answer}), self.pictures)

    def with_picture(self, picture: Tensor) -> Conversation:
        """The conversation with a picture [H, W, 3] as the model's answer. Later turns read it as any other picture."""
        return Conversation(
            (*self.turns, {"role": "assistant", "content": "", "drawn": True}), (*self.pictures, picture)
        )

    def without_oldest(self, count: int) -> Conversation:
        """The conversation without its `count` oldest exchanges (a message and its answer) and their pictures."""
        gone = count_tags(self.turns[: 2 * count])
        return Conversation(self.turns[2 * count :], self.pictures[gone:])

    def tokens(self, janus: Janus) -> int:
        """How many tokens of the context it takes; the last turn must be the user's."""
        return len(janus.processor.question_prompt(list(self.turns), len(self.pictures)))


def check_room(janus: Janus, conversation: Conversation, new: int, *, setting: str | None = None) -> None:
    """Raise InputError when a question does not fit the context with `new` tokens of answer; it says how many turns to drop.

    `setting` is what the user's program calls the number of turns to drop, for the message.
    """
    limit, used = janus.context, conversation.tokens(janus)
    if used + new <= limit:
        return
    cure = "ask in fewer words"
    for count in range(1, (len(conversation.turns) + 1) // 2):
        if conversation.without_oldest(count).tokens(janus) + new <= limit:
            which = "turn 1" if count == 1 else f"turns 1 to {count}"
            cure = f"drop {which} (set {setting} to {count})" if setting else f"drop {which}"
            break
    raise context_exceeded("conversation", used=used, new=new, limit=limit, cure=f"{cure}, or allow a shorter answer")


def spread_frames(
    janus: Janus, frames: list[Tensor], *, most: int, tokens: Callable[[int], int], new: int
) -> list[Tensor]:
    """Evenly spread ones of a video's frames: at most `most`, and as many as fit the context with `new` tokens of answer.

    `tokens(count)` is how many tokens the question takes with that many pictures. One frame is left where none fits.
    """
    one = tokens(1)
    each = tokens(2) - one if len(frames) > 1 else 1
    count = max(1, min(most, len(frames), 1 + (janus.context - new - one) // each))
    return [frames[i * (len(frames) - 1) // (count - 1)] for i in range(count)] if count > 1 else frames[:1]
