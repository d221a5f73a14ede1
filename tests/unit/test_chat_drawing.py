"""A picture as the reply: drawn after all that was said, and read by the turns that follow."""

from __future__ import annotations

import pytest
import torch

from janus_core import InputError
from janus_core.chat_drawing import drawing_in, reading_need
from janus_core.conversation import Conversation
from janus_core.processing import IMAGE_TAG, count_tags


def talk(pictures) -> Conversation:
    asked = Conversation().ask("What is this?", [pictures(1)[0]]).with_answer("A cat.")
    return asked.ask("Draw it in the snow.", [])


@torch.no_grad()
def test_it_follows_all_that_was_said_and_shown(janus64, pictures):
    """Greedy codes, against passes without a cache over the whole conversation."""
    conversation = talk(pictures)
    drawn = janus64.draw(drawing_in(janus64, conversation, cfg_weight=1.0, temperature=0.0)).ids
    model, processor = janus64.model, janus64.processor
    ids = [*processor.question_prompt(list(conversation.turns), 1), processor.begin_of_image]
    embeds, _ = janus64.embed_prompts([ids], list(conversation.pictures))
    hidden = model.language_model.model(torch.cat((embeds, model.embed_codes(drawn[:, :-1])), dim=1))
    assert model.gen_head(hidden[:, len(ids) - 1 :]).argmax(-1).tolist() == drawn.tolist()


def test_guidance_is_against_as_many_pads(janus, pictures):
    drawing = drawing_in(janus, talk(pictures))
    [whole], [without] = drawing.guided_by
    pads = {janus.processor.pad}
    assert len(without) == len(whole) and set(without[1:-1]) == pads
    assert without[0] == janus.processor.bos and without[-1] == janus.processor.begin_of_image


def test_what_was_said_and_shown_before_changes_the_picture(janus64, pictures):
    asked = Conversation().ask("Draw it.", [])
    others = [Conversation().ask("A cat.", []).with_answer("Yes.").ask("Draw it.", []), talk(pictures)]
    ids = [janus64.draw(drawing_in(janus64, c, seed=4)).ids.tolist() for c in (asked, *others)]
    assert len({str(codes) for codes in ids}) == 3


def test_a_drawn_turn_is_read_as_a_picture_and_ends_as_a_turn_does(janus, pictures):
    [picture] = pictures(1)
    after = Conversation().ask("Draw a cat.", []).with_picture(picture).ask("Which colour?", [])
    assert count_tags(after.turns) == 1 == len(after.pictures)
    processor = janus.processor
    ids = processor.question_prompt(list(after.turns), 1)
    image = [processor.begin_of_image, *[processor.image] * processor.image_tokens, processor.end_of_image]
    at = ids.index(processor.begin_of_image)
    assert ids[at : at + len(image) + 1] == [*image, processor.eos]
    assert ids[at - 2 : at] == processor.encode("<|Assistant|>:")[1:]
    answer = janus.answer(list(after.turns), list(after.pictures), max_new_tokens=6)
    other = Conversation().ask("Draw a cat.", []).with_picture(1 - picture).ask("Which colour?", [])
    assert janus.answer(list(other.turns), list(other.pictures), max_new_tokens=6) != answer


def test_what_an_assistant_says_is_text_still(janus):
    said = Conversation().ask("Hello", []).with_answer(IMAGE_TAG).ask("What?", [])
    assert count_tags(said.turns) == 0
    assert janus.processor.image not in janus.processor.question_prompt(list(said.turns), 0)


def test_dropping_old_turns_drops_their_drawn_pictures(pictures):
    one, two = pictures(2)
    talked = Conversation().ask("Draw.", []).with_picture(one).ask("Again.", []).with_picture(two).ask("Why?", [])
    assert [picture is two for picture in talked.without_oldest(1).pictures] == [True]


def test_a_conversation_without_room_for_a_picture_says_so(janus):
    with pytest.raises(InputError, match="drop old turns"):
        drawing_in(janus, Conversation().ask("word " * 800, []))


def test_the_parts_it_needs_to_read(janus, pictures):
    assert reading_need(janus, talk(pictures)).parts == ("Understanding",)
    assert reading_need(janus, Conversation().ask("Draw a cat.", [])).parts == ()
