"""Conversations: what a turn adds, what dropping takes away, and what is said when they grow too long."""

import pytest
import torch

import janus_core
from janus_core import InputError
from janus_core.conversation import Conversation, check_room, spread_frames
from janus_core.processing import IMAGE_TAG


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load()


def picture(value: float) -> torch.Tensor:
    return torch.full((8, 8, 3), value)


def talk(turns: int) -> Conversation:
    conversation = Conversation()
    for i in range(turns):
        conversation = conversation.ask(f"What is number {i}?", [picture(i / 10)]).with_answer(f"It is {i}.")
    return conversation


def test_pictures_stand_before_the_message_they_come_with() -> None:
    conversation = (
        Conversation().ask("Hello", []).with_answer("Yes?").ask("What are these?", [picture(0.0), picture(1.0)])
    )
    assert [turn["content"].count(IMAGE_TAG) for turn in conversation.turns] == [0, 0, 2]
    assert conversation.turns[2]["content"].endswith("What are these?")
    assert [float(p.mean()) for p in conversation.pictures] == [0.0, 1.0]


def test_pictures_stand_where_the_message_says() -> None:
    asked = Conversation().ask(f"Is {IMAGE_TAG} like {IMAGE_TAG}?", [picture(0.0), picture(1.0)])
    assert asked.turns[0]["content"] == f"Is {IMAGE_TAG} like {IMAGE_TAG}?"


def test_an_empty_message_is_refused() -> None:
    for message in ("", " \n", IMAGE_TAG):
        with pytest.raises(InputError, match="message is empty"):
            Conversation().ask(message, [])


def test_a_turn_adds_to_a_conversation_without_changing_it() -> None:
    first = talk(1)
    first.ask("More?", [])
    assert len(first.turns) == 2


def test_dropping_turns_drops_their_pictures() -> None:
    left = talk(3).without_oldest(2)
    assert [turn["content"].removeprefix(f"{IMAGE_TAG}\n") for turn in left.turns] == ["What is number 2?", "It is 2."]
    assert [round(float(p.mean()), 1) for p in left.pictures] == [0.2]


def test_an_answer_that_names_a_picture_holds_none(janus: janus_core.Janus) -> None:
    conversation = Conversation().ask("Hello", []).with_answer(f"See {IMAGE_TAG}.").ask("What is it?", [picture(0.5)])
    assert conversation.tokens(janus) > janus.processor.image_tokens
    assert len(conversation.without_oldest(1).pictures) == 1


def test_the_length_is_what_the_model_reads(janus: janus_core.Janus) -> None:
    asked = talk(2).ask("And now?", [])
    ids = janus.processor.question_prompt(list(asked.turns), 2)
    assert asked.tokens(janus) == len(ids)
    assert ids.count(janus.processor.image) == 2 * janus.processor.image_tokens


def test_too_long_a_conversation_says_which_turns_to_drop(janus: janus_core.Janus) -> None:
    asked = talk(5).ask("And now?", [])
    need = [asked.without_oldest(i).tokens(janus) for i in range(6)]
    for oldest in (1, 3):
        room = janus.context - need[oldest]
        with pytest.raises(InputError, match=f"drop turns? 1.*set drop_turns to {oldest}") as caught:
            check_room(janus, asked, room, setting="drop_turns")
        assert f"takes {need[0]} tokens" in str(caught.value)
        check_room(janus, asked.without_oldest(oldest), room)
    with pytest.raises(InputError, match="fewer words"):
        check_room(janus, asked, janus.context - need[5] + 1)


def test_a_conversation_goes_on_after_an_answer_of_no_words(janus: janus_core.Janus) -> None:
    conversation = Conversation().ask("Hello", []).with_answer("").ask("What is two and two?", [])
    assert janus.answer(list(conversation.turns), max_new_tokens=1) is not None
    assert conversation.tokens(janus) > Conversation().ask("What is two and two?", []).tokens(janus)


def test_frames_of_a_video_are_spread_evenly_and_fit_the_context(janus, pictures):
    frames = list(pictures(30))
    tokens = lambda count: len(janus.processor.question_prompt("What happens?", count))
    chosen = lambda most, new: [
        next(i for i, frame in enumerate(frames) if frame is one)
        for one in spread_frames(janus, frames, most=most, tokens=tokens, new=new)
    ]
    assert chosen(1, 8) == [0]
    assert chosen(4, 8) == [0, 9, 19, 29]
    assert chosen(99, 8)[0] == 0 and chosen(99, 8)[-1] == 29
    room = janus.context - tokens(12)
    assert len(chosen(99, room)) == 12 and len(chosen(99, room + 1)) == 11
    assert isinstance(janus.answer("What happens?", [frames[i] for i in chosen(99, room)][:2], max_new_tokens=1), str)
    assert chosen(99, janus.context) == [0]  # and the question is refused for its length
