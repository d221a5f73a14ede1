"""A conversation as a value: turns and the pictures they are about."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .errors import InputError
from .pipeline import Janus
from .processing import IMAGE_TAG, Turn


@dataclass(frozen=True)
class Conversation:
    """Alternating `turns` of user and assistant; `pictures` [H, W, 3] take the places of `<image_placeholder>` in them."""

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

    def without_oldest(self, oldest: int) -> Conversation:
        """The conversation without its `oldest` exchanges (a message and its answer) and their pictures."""
        gone = sum(turn["content"].count(IMAGE_TAG) for turn in self.turns[: 2 * oldest])
        return Conversation(self.turns[2 * oldest :], self.pictures[gone:])

    def tokens(self, janus: Janus) -> int:
        """How many tokens of the context it takes; its last turn must be a message."""
        return len(janus.processor.question_prompt(list(self.turns), len(self.pictures)))


def check_room(janus: Janus, conversation: Conversation, new: int, *, setting: str | None = None) -> None:
    """Raise InputError when a question does not fit the context with `new` tokens of answer, and say what would.

    `setting` is what the user's program calls the number of turns to drop, for the message.
    """
    limit, used = janus.context, conversation.tokens(janus)
    if used + new <= limit:
        return
    past = (len(conversation.turns) - 1) // 2
    for oldest in range(1, past + 1):
        if conversation.without_oldest(oldest).tokens(janus) + new <= limit:
            which = "turn 1" if oldest == 1 else f"turns 1 to {oldest}"
            how = f" (set {setting} to {oldest})" if setting else ""
            cure = f"drop {which}{how}, or allow a shorter answer"
            break
    else:
        cure = "ask in fewer words, or allow a shorter answer"
    raise InputError(
        f"The conversation takes {used} tokens and the answer may take {new} more, {used + new} in all, where this model "
        f"holds {limit}: {cure}."
    )
