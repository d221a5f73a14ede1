"""The fine-tunes' own inference code, recorded: prompts equal, logits within 1e-4."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

import janus_core
from janus_core import editing, reviewing, thinking
from janus_core.generation.codes import FEATURE, HIDDEN
from janus_core.generation.prefill import embed_prefixes

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny_deepseek"


@pytest.fixture(scope="module")
def recorded() -> dict:
    texts = json.loads((DATA / "dialects.json").read_text(encoding="utf-8"))
    return load_file(DATA / "dialects.safetensors") | {"text": texts}


def speaking(dialect: str) -> janus_core.Janus:
    return janus_core.load(TINY, dialect=dialect)


@pytest.mark.parametrize(("dialect", "key"), [("T2I-R1", "t2i_r1"), ("ReasonGen-R1", "reasongen_r1")])
def test_the_prompt_to_think_about(recorded, dialect, key):
    prompt = recorded["text"][key]["prompt"]
    assert speaking(dialect).processor.thinking_prompt(prompt) == recorded[f"{key}.thinking_prompt"].tolist()


def test_t2i_r1_draws_from_a_new_prompt_with_the_thought_in_it(recorded):
    thought = recorded["t2i_r1.thought"].tolist()
    assert thought[-1] == 285
    ids = speaking("T2I-R1").processor.thought_prompt(recorded["text"]["t2i_r1"]["prompt"], thought[:-1])
    assert ids == recorded["t2i_r1.drawing_prompt"].tolist()


@pytest.mark.parametrize(("row", "end"), [(0, 5), (1, 9)])
def test_reasongen_r1_draws_on_in_the_thought_s_sequence(recorded, row, end):
    thought = recorded["reasongen_r1.thoughts"][row].tolist()
    assert thought[end] == 285
    padded, mask = recorded["reasongen_r1.drawing_prompts"][row], recorded["reasongen_r1.mask"][row].bool()
    ids = speaking("ReasonGen-R1").processor.thought_prompt(recorded["text"]["reasongen_r1"]["prompt"], thought[:end])
    assert ids == padded[mask].tolist()


def test_focusdiff_draws_the_likeliest_codes(recorded, close, record):
    janus, prompt = speaking("FocusDiff"), recorded["text"]["focusdiff"]["prompt"]
    assert janus.processor.drawing_prompt(prompt) == recorded["focusdiff.prompt"].tolist()
    logits = record(janus.model.gen_head)
    assert janus.generate(prompt, seed=5).ids.tolist() == recorded["focusdiff.ids"].tolist()
    for step, rows in enumerate(recorded["focusdiff.drawing_logits"]):
        close(logits[step], rows)


def test_t2i_r1_thinks_and_draws(recorded, close, record):
    janus, prompt = speaking("T2I-R1"), recorded["text"]["t2i_r1"]["prompt"]
    words = record(janus.model.language_model.lm_head)
    thought = recorded["t2i_r1.thought"].tolist()[:-1]  # its end was set
    [ours] = thinking.think(janus, prompt, temperature=0.0, max_tokens=len(thought))
    assert ours.ids == thought
    for step, rows in enumerate(recorded["t2i_r1.thinking_logits"][: len(thought)]):
        close(words[step].flatten(), rows)
    logits = record(janus.model.gen_head)
    drawing = thinking.drawing_from(janus, prompt, [ours], temperature=0.0)
    assert janus.draw(drawing).ids.tolist() == recorded["t2i_r1.ids"].tolist()
    for step, rows in enumerate(recorded["t2i_r1.drawing_logits"]):
        close(logits[step], rows)


def test_reasongen_r1_thinks_and_draws_two_pictures_whose_thoughts_differ_in_length(recorded, close, record):
    janus, prompt = speaking("ReasonGen-R1"), recorded["text"]["reasongen_r1"]["prompt"]
    words = record(janus.model.language_model.lm_head)
    first, second = recorded["reasongen_r1.thoughts"].tolist()
    assert thinking.think(janus, prompt, temperature=0.0, max_tokens=5)[0].ids == first[:5]
    for step in range(5):
        close(words[step].flatten(), recorded["reasongen_r1.thinking_logits"][step, 0])
    logits = record(janus.model.gen_head)
    thoughts = [thinking.Thought(first[:5], ""), thinking.Thought(second[:9], "")]
    drawing = thinking.drawing_from(janus, prompt, thoughts, temperature=0.0)
    assert janus.draw(drawing).ids.tolist() == recorded["reasongen_r1.ids"].tolist()
    for step, rows in enumerate(recorded["reasongen_r1.drawing_logits"]):
        close(logits[step], rows[[0, 2, 1, 3]])  # theirs alternate


def test_janus_4o_edits_with_three_rows(recorded, close, record, picture):
    janus, text = speaking("Janus-4o"), recorded["text"]["janus_4o"]
    shown = editing.show(janus, picture(text["picture"]))
    codes = janus.model.gen_vision_model.encode(janus.processor.pixels(list(picture(text["picture"]))))[1]
    assert codes[0].tolist() == recorded["janus_4o.codes"].tolist()
    settings = {"image_weight": text["image_cfg"], "cfg_weight": text["cfg"], "temperature": 0.0}
    drawing = editing.editing_of(janus, shown, text["instruction"], **settings)
    [part] = drawing.partial
    places = [janus.processor.image if token == FEATURE else token for token in part]
    assert places == recorded["janus_4o.prompt"].tolist()
    embeds, hidden = embed_prefixes(janus.model, drawing, janus.device)
    assert hidden is None
    close(embeds, recorded["janus_4o.embeds"])  # full, part, uncond
    logits = record(janus.model.gen_head)
    assert janus.draw(drawing).ids.tolist() == recorded["janus_4o.ids"].tolist()
    for step, rows in enumerate(recorded["janus_4o.drawing_logits"]):
        close(logits[step], rows)


def test_janus_pro_r1_looks_at_its_picture_and_draws_it_again(recorded, close, record):
    janus, prompt = speaking("Janus-Pro-R1"), recorded["text"]["janus_pro_r1"]["prompt"]
    assert janus.processor.drawing_prompt(prompt) == recorded["janus_pro_r1.prompt"].tolist()
    tokens = janus.generate(prompt, temperature=0.0)
    assert tokens.ids.tolist() == recorded["janus_pro_r1.first_ids"].tolist()
    words = record(janus.model.language_model.lm_head)
    [verdict] = reviewing.review(janus, prompt, tokens, temperature=0.0)
    answer = recorded["janus_pro_r1.answer"].tolist()
    assert answer[-1] == 285  # which was set
    assert verdict.yes == recorded["text"]["janus_pro_r1"]["yes"] == (answer[0] == recorded["janus_pro_r1.yes_no"][0])
    assert verdict.ids[: len(answer) - 1] == answer[:-1]
    for step, rows in enumerate(recorded["janus_pro_r1.answer_logits"][: len(answer) - 1]):
        close(words[step].flatten(), rows)
    ended = replace(verdict, ids=answer[:-1], ended=True)
    drawing = reviewing.second_drawing(janus, prompt, tokens, [ended], temperature=0.0)
    [ids], [without] = drawing.prompts, drawing.unconditional
    mask = recorded["janus_pro_r1.second_mask"].tolist()
    assert [int(token != HIDDEN) for token in ids] == mask
    codes = len(recorded["janus_pro_r1.codes"])
    question, again = recorded["janus_pro_r1.question"].tolist(), recorded["janus_pro_r1.again"].tolist()
    first = recorded["janus_pro_r1.prompt"].tolist()
    assert ids == [*first, *[FEATURE] * codes, *question, *answer[:-1], HIDDEN, *again]
    assert without[len(first) :] == ids[len(first) :]
    close(drawing.features[:codes], janus.model.embed_codes(recorded["janus_pro_r1.codes"].long()))
    logits = record(janus.model.gen_head)
    assert janus.draw(drawing).ids.tolist() == recorded["janus_pro_r1.second_ids"].tolist()
    for step, rows in enumerate(recorded["janus_pro_r1.second_logits"]):
        close(logits[step], rows)
