"""Janus Caption Folder in a real server: one text a picture, bad ones named, nothing done twice, nothing outside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_server import PACK, ComfyServer, Graph, Run
from PIL import Image

import janus_core
from janus_core.pictures import from_uint8, read_picture

TINY = PACK / "tests" / "data" / "tiny_deepseek"
QUESTION = "What is it?"
DEFAULTS = {"preset": "own question", "question": QUESTION, "trigger": "", "prefix": "", "suffix": ""}
DEFAULTS |= {"output_folder": "", "existing": "skip"}
SETTINGS: dict[str, Any] = {"max_tokens": 6, "temperature": 0.0, "seed": 0}
LOADER = {"class_type": "JanusLoader", "inputs": {"checkpoint": "tiny", "dtype": "fp32"}}


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load(TINY)


@pytest.fixture
def album(server: ComfyServer, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Makes a folder of pictures in the input folder, of which some are damaged."""

    def make(count: int, damaged: tuple[int, ...] = ()) -> Path:
        folder = server.base / "input" / re.sub(r"\W+", "-", request.node.name)[:80]
        (folder / "more").mkdir(parents=True)
        for i in range(count):
            path = folder / ("more" if i % 4 == 3 else "") / f"{i:03}.png"
            Image.effect_noise((40 + i, 60), 40 + i).convert("RGB").save(path)
            if i in damaged:
                path.write_bytes(path.read_bytes()[:50] if i % 2 else b"")
        return folder

    return make


def captioning(folder: str | Path, **inputs: Any) -> Graph:
    given = {"janus": ["load", 0], "folder": str(folder), **DEFAULTS, **SETTINGS, **inputs}
    caption = {"class_type": "JanusCaptionFolder", "inputs": given}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["caption", 0]}}
    return {"load": LOADER, "caption": caption, "show": show}


def succeeds(server: ComfyServer, graph: Graph, *messages: Any) -> Run:
    run = server.run(graph, *messages)
    assert run.end == "execution_success", run.error
    return run


def report(run: Run) -> list[str]:
    return run.outputs["caption"]["text"]


def texts(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in sorted(folder.rglob("*.txt"))}


def test_a_folder_gets_its_captions_and_a_second_run_does_nothing_twice(
    server: ComfyServer, janus: janus_core.Janus, album: Callable[..., Path]
) -> None:
    folder = album(24, damaged=(3, 4, 11, 12, 20))
    run = succeeds(server, captioning(folder.name))
    assert report(run)[0] == "19 captions written, 5 could not be done:"
    named = [line.partition(":")[0] for line in report(run)[1:]]
    assert sorted(named) == ["004.png", "012.png", "020.png", "more/003.png", "more/011.png"]
    assert all("is not a picture that can be read" in line for line in report(run)[1:])
    expected = {}
    for path in sorted(folder.rglob("*.png")):
        if path.relative_to(folder).as_posix() not in named:
            picture = from_uint8(np.array(read_picture(path)))
            answer = janus.answer(QUESTION, [picture], max_new_tokens=6)
            expected[path.relative_to(folder).with_suffix(".txt").as_posix()] = f"{answer}\n"
    assert texts(folder) == expected
    assert run.outputs["show"]["text"] == [expected[name].strip() for name in sorted(expected)]
    assert run.progress("caption")[-1] == (24, 24)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    again = succeeds(server, captioning(folder.name))
    assert report(again)[0] == "0 captions written, 19 there already, 5 could not be done:"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")} == before
    assert again.outputs["show"]["text"] == run.outputs["show"]["text"]


def test_an_unchanged_folder_comes_from_the_cache_and_a_deleted_text_is_written_again(
    server: ComfyServer, album: Callable[..., Path]
) -> None:
    folder = album(2)
    for ran in (True, True, False):
        assert ("caption" in succeeds(server, captioning(folder.name)).executed()) == ran
    (folder / "001.txt").unlink()
    assert report(succeeds(server, captioning(folder.name)))[0] == "1 captions written, 1 there already"


def test_presets_trigger_word_prefix_and_suffix_make_the_caption(
    server: ComfyServer, janus: janus_core.Janus, album: Callable[..., Path]
) -> None:
    folder, question = album(1), "Describe the picture in one sentence."
    inputs = {"preset": "training", "trigger": "sks", "prefix": "ä photo of ", "suffix": " at night"}
    succeeds(server, captioning(folder.name, **inputs, output_folder="captions/new"))
    picture = from_uint8(np.array(read_picture(folder / "000.png")))
    answer = janus.answer(question, [picture], max_new_tokens=6)
    assert texts(server.base / "output" / "captions" / "new") == {"000.txt": f"ä photo of sks, {answer} at night\n"}
    assert texts(folder) == {}


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_texts_that_are_there_are_treated_as_asked(
    server: ComfyServer, album: Callable[..., Path], existing: str
) -> None:
    folder = album(1)
    (folder / "000.txt").write_text("mine\n")
    run = succeeds(server, captioning(folder.name, existing=existing, prefix="new "))
    [text] = texts(folder).values()
    assert (text.startswith("mine"), "new " in text) == {
        "skip": (True, False),
        "overwrite": (False, True),
        "append": (True, True),
    }[existing]
    assert run.outputs["show"]["text"] == [text.strip()]
    if existing == "append":  # pressing Run again appends nothing
        succeeds(server, captioning(folder.name, existing=existing, prefix="new "))
        assert list(texts(folder).values()) == [text]


def test_an_interrupted_run_keeps_what_it_wrote_and_the_next_does_the_rest(
    server: ComfyServer, album: Callable[..., Path]
) -> None:
    folder = album(60)

    def stop(message: dict[str, Any]) -> None:
        if message["type"] == "progress":
            server.post("/interrupt")

    assert server.run(captioning(folder.name, max_tokens=40), stop).end == "execution_interrupted"
    written = len(texts(folder))
    assert 0 < written < 60
    run = succeeds(server, captioning(folder.name, max_tokens=40))
    assert report(run) == [f"{60 - written} captions written, {written} there already"]
    assert sorted(path.suffix for path in folder.rglob("*.*")) == [".png"] * 60 + [".txt"] * 60


def test_folders_of_extra_model_paths_may_be_captioned(server: ComfyServer) -> None:
    folder = server.base / "elsewhere" / "albums" / "one"
    folder.mkdir(parents=True)
    Image.effect_noise((50, 60), 50).convert("RGB").save(folder / "a.png")
    for name in ("one", str(folder)):
        assert report(succeeds(server, captioning(name)))[0].endswith(("written", "already"))
    assert list(texts(folder)) == ["a.txt"]


@pytest.mark.parametrize(
    "name", ["", " ", "nowhere", "..", "../models", "/", "/etc", "a\0b", "x" * 5000, "example.png", "leads out"]
)
def test_a_folder_elsewhere_is_refused_before_the_run(server: ComfyServer, name: str) -> None:
    link = server.base / "input" / "leads out"
    if not link.is_symlink():
        link.symlink_to(server.base / "models", target_is_directory=True)
    run = server.run(captioning(name))
    assert run.end == "rejected" and "There is no folder" in run.error


@pytest.mark.parametrize("name", ["..", "../models", "/etc", "a/../../b", "leads out"])
def test_texts_are_written_nowhere_else(server: ComfyServer, album: Callable[..., Path], name: str) -> None:
    for root in ("input", "output"):
        link = server.base / root / "leads out"
        if not link.is_symlink():
            link.symlink_to(server.base / "models", target_is_directory=True)
    run = server.run(captioning(album(1).name, output_folder=name))
    assert run.end == "rejected" and "is not in ComfyUI's output or input folder" in run.error


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"question": " "}, "question is empty"),
        ({"preset": "training"}, "there is none"),
        ({"trigger": "sks"}, "has no place"),
        ({"question": "why " * 2000}, "holds 1024"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    server: ComfyServer, album: Callable[..., Path], inputs: dict[str, Any], expected: str
) -> None:
    run = server.run(captioning(album(1).name, **inputs))
    assert run.end in ("execution_error", "rejected") and expected in run.error


def test_a_folder_without_pictures_is_said(server: ComfyServer) -> None:
    (server.base / "input" / "empty").mkdir(exist_ok=True)
    assert "has no pictures" in server.run(captioning("empty")).error


def test_two_pictures_of_one_name_are_named_and_neither_text_is_lost(
    server: ComfyServer, album: Callable[..., Path]
) -> None:
    folder = album(1)
    Image.open(folder / "000.png").save(folder / "000.jpg")
    run = succeeds(server, captioning(folder.name))
    assert report(run) == [
        "1 captions written, 1 could not be done:",
        "000.png: 000.txt is already for 000.jpg: give one of the two another name.",
    ]
    assert json.dumps(list(texts(folder))) == '["000.txt"]'
