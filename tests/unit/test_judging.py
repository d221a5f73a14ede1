"""Yes against no from the first token of an answer: every spelling, any batch, whole pictures and unfinished ones."""

from __future__ import annotations

import pytest
import torch

from janus_core import CheckpointError, InputError
from janus_core.judging import (
    AT_ONCE,
    answer_tokens,
    best_first,
    chance_of_yes,
    judging_need,
    matches,
    question_about,
    unfinished,
)


class Words:
    """A tokenizer that makes these texts one token each, and of others one a character."""

    path = "words"

    def __init__(self, *words: str):
        self.words = words

    def plain(self, text: str) -> list[int]:
        return [self.words.index(text)] if text in self.words else [1000 + ord(character) for character in text]


def test_every_spelling_of_yes_and_no_counts_by_its_first_token():
    words = ("yes", "Yes", " yes", " Yes", "no", "No", " no", " No", " NO")
    yes, no = answer_tokens(Words(*words))  # type: ignore[arg-type]
    assert yes == [0, 1, 2, 3, 1000 + ord("Y")]  # "YES" is three tokens
    assert no == [4, 5, 6, 7, 8, 1000 + ord("N")]  # " YES" begins with a space, which is no answer


def test_a_token_with_which_both_begin_counts_for_neither(janus):
    yes, no = answer_tokens(janus.processor)
    space = janus.processor.plain(" yes")[0]
    assert janus.processor.plain(" no")[0] == space
    assert space not in (*yes, *no) and not {*yes} & {*no}


def test_a_tokenizer_that_cannot_tell_yes_from_no_is_refused():
    class Blind(Words):
        def plain(self, text: str) -> list[int]:
            return [0]

    with pytest.raises(CheckpointError, match="cannot judge"):
        answer_tokens(Blind())  # type: ignore[arg-type]


def test_the_probability_is_that_of_the_first_token_of_the_answer(janus64, pictures):
    """Against a plain pass through the model, without a cache."""
    image, question = pictures(1), question_about("a red cat")
    embeds, _ = janus64.embed_prompts([janus64.processor.question_prompt(question, 1)], list(image))
    hidden = janus64.model.language_model.model(embeds)[0, -1]
    chances = janus64.model.language_model.lm_head(hidden).softmax(-1)
    yes, no = (chances[tokens].sum() for tokens in answer_tokens(janus64.processor))
    assert matches(janus64, image, "a red cat").item() == pytest.approx(float(yes / (yes + no)), abs=1e-6)


def test_a_picture_judged_in_a_batch_of_any_size_is_the_one_judged_alone(janus64, pictures):
    many, counted = pictures(AT_ONCE + 3), []
    together = chance_of_yes(janus64, many, "Is it night?", progress=lambda *done: counted.append(done))
    alone = [chance_of_yes(janus64, picture[None], "Is it night?").item() for picture in many]
    torch.testing.assert_close(together, torch.tensor(alone))
    assert counted == [(AT_ONCE, AT_ONCE + 3), (AT_ONCE + 3, AT_ONCE + 3)]


def test_pictures_of_different_sizes_are_judged_too(janus, pictures):
    mixed = [pictures(1, side=96)[0], pictures(1, side=200)[0]]
    assert matches(janus, mixed, "a cat").shape == (2,)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_description_and_no_picture_are_refused(janus, pictures, prompt):
    with pytest.raises(InputError, match="description is empty"):
        matches(janus, pictures(1), prompt)
    with pytest.raises(InputError, match="question is empty"):
        chance_of_yes(janus, pictures(1), prompt)
    with pytest.raises(InputError, match="no picture"):
        matches(janus, [], "a cat")


def test_what_looks_like_a_special_token_in_a_description_is_text(janus, pictures):
    tag = "<image_placeholder>"
    with pytest.raises(InputError, match="names 2 pictures"):
        matches(janus, pictures(1), f"{tag} {tag}")


def test_the_need_grows_with_the_batch_up_to_what_is_judged_at_once(janus):
    needs = [judging_need(janus, "Is it night?", count).bytes for count in (1, 2, AT_ONCE, 10 * AT_ONCE)]
    assert needs[0] < needs[1] < needs[2] == needs[3]


def test_the_best_come_first_and_of_equals_the_first():
    assert best_first(torch.tensor([0.1, 0.9, 0.5, 0.9]), 3) == [1, 3, 2]
    assert best_first(torch.tensor([0.1, 0.9]), 5) == [1, 0]


def test_an_unfinished_picture_has_its_rows_on_top_and_grey_below(janus):
    tokens = janus.generate("a cat", 2, seed=1)
    height, width = tokens.grid
    part = unfinished(janus, tokens.ids[:, : 2 * width])
    whole = janus.decode(tokens)
    assert part.shape == whole.shape
    side = whole.shape[1] // height
    assert (part[:, 2 * side :] == 127 / 255).all() and not (part[:, : 2 * side] == 127 / 255).all()
    assert torch.equal(unfinished(janus, tokens.ids), whole)
