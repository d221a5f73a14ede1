"""Think, then draw: thoughts are their own singles, and each picture is drawn from its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from live_bytes import LiveBytes

import janus_core
from janus_core import InputError, memory, thinking
from janus_core.__main__ import main

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
PROMPT = "an owl, at night"


@pytest.fixture(scope="module", params=["Janus-Pro", "T2I-R1", "ReasonGen-R1"])
def speaker(request) -> janus_core.Janus:
    return janus_core.load(TINY, dtype=torch.float64, dialect=request.param)


def shortly(janus: janus_core.Janus, **settings):
    return thinking.think(janus, PROMPT, max_tokens=12, **settings)


def test_thought_i_of_a_batch_is_the_single_thought_of_seed_plus_i(speaker):
    together = shortly(speaker, count=3, seed=4)
    assert together == [shortly(speaker, seed=4 + i)[0] for i in range(3)]
    assert len({tuple(thought.ids) for thought in together}) == 3


@pytest.mark.parametrize("sampler", ["sequential", "jacobi"])
def test_each_picture_is_drawn_from_its_own_thought(speaker, sampler):
    thoughts = shortly(speaker, count=3, seed=4)
    drawn = speaker.draw(thinking.drawing_from(speaker, PROMPT, thoughts, seed=4, sampler=sampler)).ids.tolist()
    for i, thought in enumerate(thoughts):
        alone = speaker.draw(thinking.drawing_from(speaker, PROMPT, [thought], seed=4 + i))
        assert alone.ids[0].tolist() == drawn[i]
    other = speaker.draw(thinking.drawing_from(speaker, PROMPT, thoughts[::-1], seed=4)).ids.tolist()
    assert other[0] != drawn[0]


def test_think_and_draw_is_both_and_reports_both(speaker):
    short = speaker.processor
    short.dialect = replace(short.dialect, thinking=replace(short.dialect.thinking, max_tokens=12))
    said, drawn = [], []
    tokens, thoughts = janus_core.think_and_draw(
        speaker,
        PROMPT,
        2,
        seed=7,
        thinking=lambda step, total, ids: said.append((step, total)),
        progress=lambda step, total, ids: drawn.append(step),
    )
    assert thoughts == shortly(speaker, count=2, seed=7)
    assert tokens.ids.tolist() == speaker.draw(thinking.drawing_from(speaker, PROMPT, thoughts, seed=7)).ids.tolist()
    assert said[-1][1] == 12 and drawn[-1] == 36


def test_a_thought_of_full_length_gives_its_last_token_for_begin_of_image():
    processor = janus_core.load(TINY, dialect="ReasonGen-R1").processor
    thought = [70] * processor.dialect.thinking.max_tokens
    ids = processor.thought_prompt(PROMPT, thought)
    assert ids == [*processor.thinking_prompt(PROMPT), *thought[:-1], processor.begin_of_image]


def test_a_begin_of_image_in_a_thought_ends_it():
    processor = janus_core.load(TINY, dialect="ReasonGen-R1").processor
    begin = processor.begin_of_image
    assert processor.thought_prompt(PROMPT, [70, begin, 71]) == [*processor.thinking_prompt(PROMPT), 70, begin]


def test_the_better_prompt_is_what_would_be_drawn_from():
    for dialect, text in (("Janus-Pro", "a big owl"), ("T2I-R1", "an owl. a big owl"), ("ReasonGen-R1", "a big owl")):
        janus = janus_core.load(TINY, dialect=dialect)
        assert thinking.better_prompt(janus, " an owl", thinking.Thought([], "a big owl")) == text


def test_a_short_context_leaves_room_to_draw(speaker):
    room = speaker.context - len(speaker.processor.thinking_prompt(PROMPT))
    drawn = 36 if speaker.processor.dialect.name == "ReasonGen-R1" else 0
    seen = []

    def stop(step: int, total: int, ids: list[list[int]]) -> None:
        seen.append(total)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        thinking.think(speaker, PROMPT, max_tokens=5000, progress=stop)
    assert seen == [room - drawn]


@pytest.mark.parametrize(
    ("prompt", "settings", "says"),
    [
        (" ", {}, "prompt is empty"),
        ("owl " * 1000, {}, "turn thinking off"),
        (PROMPT, {"count": 0}, "at least one picture"),
        (PROMPT, {"max_tokens": 0}, "at least 1 as max_tokens"),
        (PROMPT, {"temperature": -1.0}, "temperature"),
    ],
)
def test_bad_input_is_one_sentence(janus, prompt, settings, says):
    with pytest.raises(InputError, match=says):
        thinking.think(janus, prompt, **settings)


@pytest.mark.parametrize("count", [1, 3])
def test_what_it_needs_is_counted(janus, count):
    need = thinking.thinking_need(janus, PROMPT, count, max_tokens=12)
    assert need.parts == ("Language", "TextHead") and set(need.parts) < set(memory.PARTS)
    with LiveBytes(list(janus.model.parameters())) as thought:
        thinking.think(janus, PROMPT, count, max_tokens=12)
    assert thought.peak <= need.bytes * 1.2  # the tiny model's tables weigh more than a real one's


def test_the_command_line_prints_what_was_thought(tmp_path, capsys):
    arguments = [
        "generate",
        "a red circle",
        "--count",
        "2",
        "--seed",
        "7",
        "--output",
        str(tmp_path),
        "--json",
        "--think",
    ]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    tokens, thoughts = janus_core.think_and_draw(janus_core.load(), "a red circle", 2, seed=7)
    assert printed["ids"] == tokens.ids.tolist()
    assert printed["thoughts"] == [thought.text for thought in thoughts]
