"""Which dialect a checkpoint speaks, and what it changes."""

from __future__ import annotations

import json

import pytest

import janus_core
from janus_core.convert import convert
from janus_core.dialects import DIALECTS, NAMES
from janus_core.errors import CheckpointError, InputError
from janus_core.published import DOWNLOADS, FINE_TUNES


def dialect(*arguments, **named) -> str:
    return janus_core.load(*arguments, **named).processor.dialect.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Janus-4o-7B", "Janus-4o"),
        ("T2I-R1", "T2I-R1"),
        ("t2i_r1-int8", "T2I-R1"),
        ("Janus-Pro-R1-7B", "Janus-Pro-R1"),
        ("ReasonGen-R1-SFT", "ReasonGen-R1"),
        ("Janus-FocusDiff-7B", "FocusDiff"),
        ("Janus-1.3B", "Janus-1.3B"),
        ("Janus-Pro-1B", "Janus-Pro"),
        ("mine", "Janus-Pro"),
        ("models--CaraJ--T2I-R1/snapshots/0b1c2d", "T2I-R1"),
    ],
)
def test_a_name_tells(copy, tmp_path, name, expected):
    folder = tmp_path / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    copy().rename(folder)
    assert dialect(folder) == expected


def test_the_files_tell_before_the_name_and_the_caller_before_both(copy):
    folder = copy("T2I-R1")
    (folder / "generation_config.json").write_text(json.dumps({"janus": {"dialect": "ReasonGen-R1", "min_p": 0.1}}))
    assert dialect(folder) == "ReasonGen-R1"
    assert janus_core.load(folder).defaults.min_p == 0.1
    assert dialect(folder, dialect="Janus-4o") == "Janus-4o"


@pytest.mark.parametrize("told", ["file", "name"])
def test_a_converted_file_keeps_what_tells(copy, tmp_path, told):
    folder = copy("ReasonGen-R1" if told == "name" else "mine")
    if told == "file":
        (folder / "generation_config.json").write_text(json.dumps({"janus": {"dialect": "ReasonGen-R1"}}))
    assert dialect(convert(folder, tmp_path / "packed.safetensors")) == "ReasonGen-R1"


def test_an_unknown_dialect_is_refused_with_the_known_ones(copy):
    folder = copy()
    with pytest.raises(InputError, match="no dialect 'Klingon': choose Janus-1.3B, "):
        janus_core.load(folder, dialect="Klingon")
    (folder / "generation_config.json").write_text(json.dumps({"janus": {"dialect": "Klingon"}}))
    with pytest.raises(
        CheckpointError, match=r"generation_config.json names the dialect 'Klingon': there are Janus-1\.3B"
    ):
        janus_core.load(folder)


def test_roles_are_plain_where_the_authors_had_them_plain(copy):
    plain = {name for name in NAMES if janus_core.load(copy(name), dialect=name).processor.roles["user"] == "User"}
    assert plain == {"Janus-1.3B", "T2I-R1"}


def test_a_dialect_s_own_sampling_holds_where_nothing_is_said(copy):
    janus = janus_core.load(copy("Janus-FocusDiff-7B"))
    likeliest = janus.generate("a red cat", seed=3).ids.tolist()
    assert janus.generate("a red cat", seed=4).ids.tolist() == likeliest
    assert janus.generate("a red cat", seed=4, top_k=0).ids.tolist() != likeliest


def test_a_prompt_s_braces_are_text(copy):
    processor = janus_core.load(copy("T2I-R1")).processor
    ids = processor.thought_prompt("a {thought} {prompt}", processor.plain("a {0} cat"))
    assert "a {thought} {prompt}. a {0} cat" in processor.tokenizer.decode(ids)


def test_each_fine_tune_on_the_list_is_known_by_its_name():
    known = {"Janus-4o", "T2I-R1", "Janus-Pro-R1", "ReasonGen-R1", "FocusDiff"}
    marks = {d.name: d.mark for d in DIALECTS if d.mark}
    for model in FINE_TUNES:
        assert sum(marks[name] in model.name.lower() for name in known) == 1
        assert model.licence
    assert len({model.name for model in DOWNLOADS}) == len(DOWNLOADS)


def test_a_thought_that_leaves_nothing_to_draw_is_refused(janus):
    with pytest.raises(InputError, match="no thought about this prompt"):
        janus.processor.thought_prompt("a cat", [])
