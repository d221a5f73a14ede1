"""Understanding against the original: embeddings and logits within 1e-4, generated ids and words equal."""

from __future__ import annotations

import pytest
import torch

from janus_core.generation.sampling import Sampling
from janus_core.generation.text import answer_ids, embed_prompts

TWO = "<image_placeholder> is Figure 1.\n<image_placeholder> is Figure 2.\nWhich image is brighter?"
ONE = "What is in the image?"  # our placeholder goes before it, as the recorded question has it
NEW = 16


def special(janus) -> dict[str, int]:
    return {"image_id": janus.processor.image, "pad": janus.processor.pad}


def greedy(janus, embeds: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    settings = {"eos": janus.processor.eos, "max_new_tokens": NEW, "sampling": Sampling(0)}
    return answer_ids(janus.model, embeds, mask, janus.execution, **settings)


def prompts_and_features(janus, picture, questions):
    """Prompt ids and picture embeddings of [(question, names of its pictures)]."""
    prompts = [janus.processor.question_prompt(question, len(names)) for question, names in questions]
    pixels = torch.cat([janus.processor.pixels(picture(name)) for _, names in questions for name in names])
    return prompts, janus.model.embed_images(pixels)


@pytest.mark.parametrize(
    ("run", "questions"),
    [
        ("one_two_images", [(TWO, ["wide", "tall"])]),
        ("one_one_image", [(ONE, ["square"])]),
        ("batch", [(TWO, ["wide", "tall"]), (ONE, ["square"])]),
    ],
)
@torch.no_grad()
def test_questions_about_pictures(janus, golden, close, picture, record, run, questions):
    rows = slice(1, 2) if run == "one_one_image" else slice(0, len(questions))
    prompts, features = prompts_and_features(janus, picture, questions)
    embeds, mask = embed_prompts(janus.model, prompts, **special(janus), features=features, device=janus.device)
    width = embeds.shape[1]
    recorded_ids = golden["understanding.batch.input_ids"][rows, -width:]
    recorded_mask = golden["understanding.batch.attention_mask"][rows, -width:].bool()
    assert torch.equal(mask, recorded_mask)
    for ids, row, seen in zip(prompts, recorded_ids, recorded_mask, strict=True):
        assert ids == row[seen].tolist()
    close(embeds[mask], golden["understanding.batch.inputs_embeds"][rows, -width:][recorded_mask])

    logits = record(janus.model.language_model.lm_head)
    generated = greedy(janus, embeds, mask)
    assert generated == golden[f"understanding.{run}.generated"].tolist()
    close(torch.stack(logits, dim=1), golden[f"understanding.{run}.scores"])


def test_answers_in_words(janus, golden, picture):
    recorded = golden["text"]["understanding"]
    # Already resized and padded, so that pictures of two shapes fit one batch: preprocessing leaves them as they are.
    images = [torch.cat([picture("wide.s96"), picture("tall.s96")]), picture("square")]
    assert janus.answer(TWO, images[0], max_new_tokens=NEW) == recorded["one_two_images"]["decoded"][0]
    assert janus.answer(ONE, images[1], max_new_tokens=NEW) == recorded["one_one_image"]["decoded"][0]
    assert janus.answer_batch([TWO, ONE], images, max_new_tokens=NEW) == recorded["batch"]["decoded"]


@torch.no_grad()
def test_a_question_without_a_picture(janus, golden, close, record):
    prompt = golden["understanding.text_only.input_ids"][0].tolist()
    embeds, mask = embed_prompts(janus.model, [prompt], **special(janus), features=None, device=janus.device)
    logits = record(janus.model.language_model.lm_head)
    generated = greedy(janus, embeds, mask)
    assert generated == golden["understanding.text_only.generated"].tolist()
    close(torch.stack(logits, dim=1), golden["understanding.text_only.scores"])
    question = janus.processor.tokenizer.decode(prompt, skip_special_tokens=False)
    question = question.split("<|User|>: ")[1].split("\n\n")[0]
    assert janus.processor.question_prompt(question, 0) == prompt
