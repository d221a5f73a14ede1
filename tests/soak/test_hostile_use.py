"""A short run of the campaign: damaged files and odd settings end in a right result or in one sentence, and at once."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempts import use_checkpoint, use_settings
from damage import damaged_copy, make_originals
from judging import ESCAPE, HANG, REFUSED, RIGHT, Outcome, Watched, drawn_by, flaw, judge
from settings import odd_settings

from janus_core import InputError

SEED = 0
FILES, SETTINGS = 60, 40


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    make_originals(folder)
    return folder


@pytest.fixture(scope="module")
def watched_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(use_checkpoint, tmp_path_factory.mktemp("log") / "stderr") as watched:
        yield watched


@pytest.mark.parametrize("part", range(4))
def test_damaged_files_end_in_a_right_result_or_in_one_sentence(
    originals: Path, watched_files: Watched, tmp_path: Path, part: int
) -> None:
    bad, kinds = [], set()
    for number in range(part, FILES, 4):
        folder, copy = tmp_path / "damaged", tmp_path / "copy.safetensors"
        damaged = damaged_copy(originals, folder, drawn_by(SEED, "files", number))
        outcome = watched_files(damaged.checkpoint, damaged.lora, copy)
        kinds.add(outcome.kind)
        if outcome.kind in (ESCAPE, HANG) or (damaged.harmless and outcome.kind != RIGHT):
            bad.append(f"{number}, {damaged.what}: {outcome}")
        shutil.rmtree(folder)
        copy.unlink(missing_ok=True)
    assert not bad, "\n".join(bad)
    assert kinds == {RIGHT, REFUSED}


def test_odd_settings_end_in_a_right_result_or_in_one_sentence(tmp_path: Path) -> None:
    bad, kinds = [], set()
    with Watched(use_settings, tmp_path / "stderr") as watched:
        for number in range(SETTINGS):
            drawing, asking, nan_at = odd_settings(drawn_by(SEED, "settings", number))
            outcome = watched(drawing, asking, nan_at)
            kinds.add(outcome.kind)
            if outcome.kind in (ESCAPE, HANG):
                bad.append(f"{number}, {drawing} {asking}: {outcome}"[:600])
    assert not bad, "\n".join(bad)
    assert kinds == {RIGHT, REFUSED}


def die(how: str) -> str:
    """A job that goes wrong in a given way."""
    if how == "panic":
        raise BaseException(how)  # noqa: TRY002 (as a panic of a library in Rust comes)
    if how == "memory":
        return str(len(b"x" * 1_200_000_000))
    if how == "exit":
        os._exit(3)
    if how == "hang":
        time.sleep(60)
    return how


def test_what_is_no_exception_is_seen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("judging.LONGEST", 3.0)
    with Watched(die, tmp_path / "stderr") as watched:
        for how, kind in (("panic", ESCAPE), ("exit", ESCAPE), ("memory", ESCAPE), ("hang", HANG)):
            assert watched(how).kind == kind, how
            assert watched("fine") == Outcome(RIGHT, "fine")


def test_only_one_printable_sentence_is_clear() -> None:
    assert judge(InputError("The batch is 0: ask for one picture.")).kind == REFUSED
    assert judge(ValueError("The batch is 0: ask for one picture.")).kind == ESCAPE
    for text in ("", "It is\nnot.", "It has no stop", 'File "x.py" is wrong here.', "\ud800 is no character at all."):
        assert flaw(text) and judge(InputError(text)).kind == ESCAPE
