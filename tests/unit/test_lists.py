"""Lists of work: each item as it is alone, bad ones named, and nothing lost or done twice when a run is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import janus_core
from janus_core.__main__ import main
from janus_core.batch import items
from janus_core.batch.answers import answer_all
from janus_core.batch.drawing import draw_all
from janus_core.batch.items import Item, picture_items
from janus_core.pictures import from_uint8, read_picture, to_pil

PACK = Path(__file__).parents[2]
TINY = PACK / "tests" / "data" / "tiny_deepseek"
PROMPTS = ["a red cat", "the boat", "a red cat", "an owl in the night, and a red boat", "cat"]


def alone(janus: janus_core.Janus, item: Item, new: int, temperature: float = 0.0) -> str:
    pictures = [from_uint8(np.array(read_picture(item.picture)))] if isinstance(item.picture, Path) else None
    return janus.answer(item.text, pictures, max_new_tokens=new, temperature=temperature, seed=item.seed)


def fail(*args: object) -> None:
    raise AssertionError(args)


class EveryEighth(int):
    """Equals every eighth token."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and other % 8 == 3

    def __ne__(self, other: object) -> bool:
        return not self == other


@pytest.fixture
def ending(janus, monkeypatch) -> None:
    """The tiny model rambles; now an answer ends at one token of eight."""
    monkeypatch.setattr(janus.processor, "eos", EveryEighth())


@pytest.mark.parametrize(("rows", "temperature"), [(1, 1.0), (3, 0.0), (3, 1.0), (16, 1.0)])
def test_each_answer_of_a_list_is_the_one_it_gets_alone(janus, ending, album, rows, temperature):
    """In fp32, with prompts of several lengths, with and without pictures, and answers that end at different times."""
    files = items.picture_files(folder := album(9))
    asked = [
        Item(name, "What?" + " red cat" * (i % 3), folder / name if i % 4 else None, seed=2**64 - 3 + i % 3)
        for i, name in enumerate(files)
    ]
    found: dict[str, str] = {}
    answer_all(
        janus,
        asked,
        rows=rows,
        max_new_tokens=20,
        temperature=temperature,
        finished=lambda item, answer: found.setdefault(item.key, answer),
        failed=fail,
    )
    assert found == {item.key: alone(janus, item, 20, temperature) for item in asked}
    assert len(set(map(len, found.values()))) > 3


def test_a_row_is_taken_by_the_next_question_as_soon_as_its_answer_ends(janus, ending):
    """One long answer and many short ones take as many steps as the long one, or little more."""
    calls: list[int] = []
    length = {}
    for i in range(40):
        before = len(calls)
        janus.answer("What?", max_new_tokens=60, temperature=1.0, seed=i, progress=lambda *_: calls.append(1))
        length[i] = len(calls) - before
    calls.clear()
    long = max(length, key=lambda i: length[i])
    short = [i for i in length if length[i] <= length[long] // 4][:4]
    answer_all(
        janus,
        [Item(str(i), "What?", seed=i) for i in [long, *short]],
        rows=2,
        max_new_tokens=60,
        temperature=1.0,
        finished=lambda *_: None,
        failed=fail,
        progress=lambda: calls.append(1),
    )
    assert len(short) == 4
    assert len(calls) == max(length[long], sum(length[i] for i in short)) - 1  # a prompt gives the first token


def test_questions_that_cannot_be_answered_are_reported_and_the_rest_is_done(janus, album):
    folder = album(4, damaged=(1,))
    asked = list(picture_items(folder, question="What?", seed=0, failed=fail))
    asked += [Item("empty", " ", None), Item("long", "cat " * 2000, None), Item("last", "What?", None)]
    done, bad = [], {}
    answer_all(
        janus,
        asked,
        rows=2,
        max_new_tokens=4,
        finished=lambda item, _: done.append(item.key),
        failed=lambda item, error: bad.setdefault(item.key, str(error)),
    )
    assert sorted(done) == ["000.png", "003.png", "last", "more/002.png"]
    assert list(bad) == ["empty", "long", "001.png"]
    assert "empty" in bad["empty"] and "model holds" in bad["long"] and "001.png is not a picture" in bad["001.png"]


@pytest.mark.parametrize("cfg_weight", [1.0, 5.0])
def test_each_picture_of_a_list_is_the_one_its_prompt_and_seed_give_alone(janus, cfg_weight):
    listed = [Item(str(i), prompt, seed=7 * i) for i, prompt in enumerate(PROMPTS)]
    found: dict[str, torch.Tensor] = {}

    def finished(some: list[Item], pictures: torch.Tensor) -> None:
        found.update(zip([item.key for item in some], pictures, strict=True))

    draw_all(janus, listed, batch=3, finished=finished, failed=fail, cfg_weight=cfg_weight)
    assert list(found) == ["0", "1", "2", "3", "4"]
    for item in listed:
        expected = janus.decode(janus.generate(item.text, seed=item.seed, cfg_weight=cfg_weight))[0]
        assert torch.equal(to_u8(found[item.key]), to_u8(expected))


def to_u8(picture: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.asarray(to_pil(picture)).copy())


def test_progress_may_raise_to_stop_a_list(janus):
    def stop() -> None:
        raise KeyError("stopped")

    with pytest.raises(KeyError):
        answer_all(janus, [Item("a", "What?")], rows=1, finished=fail, failed=fail, progress=stop)
    assert janus.answer("What?", max_new_tokens=2) is not None


def run_until(arguments: list[str], ready: Callable[[], bool]) -> None:
    """Start the command line and kill it with SIGKILL as soon as `ready`; it must not have ended by then."""
    process = subprocess.Popen(  # noqa: S603 (our own interpreter)
        [sys.executable, "-m", "janus_core", *arguments],
        cwd=PACK,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    while not ready():
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def complete_lines(path: Path) -> list[dict]:
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text.split(b"\n")[:-1]]


@pytest.mark.slow
def test_answers_killed_twice_and_resumed_are_those_of_an_undisturbed_run_in_the_lists_order(
    janus, album, tmp_path, capsys
):
    """Ten of the pictures are damaged: each run names them, and does the rest."""
    damaged = tuple(range(5, 45, 4))
    folder, out, part = album(48, damaged), tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    command = ["describe", str(folder), "--out", str(out), "--checkpoint", str(TINY), "--batch", "2"]
    command += ["--max-new-tokens", "30", "--question", "What?"]
    kept = 0
    for more in (5, 12):
        run_until(command, lambda more=more, kept=kept: len(complete_lines(part)) >= kept + more)
        rows = complete_lines(part)
        assert kept < len(rows) < 38 and not out.exists()
        kept = len(rows)
    before = {row["key"]: row for row in rows}
    part.open("ab").write(b'{"key": "torn')  # as a kill in the middle of a write leaves it
    assert main(command) == 0
    done = complete_lines(out)
    assert f"{38 - kept} done, {kept} there already, 10 could not be done" in capsys.readouterr().out
    expected = {
        item.key: alone(janus, item, 30)
        for item in picture_items(folder, question="What?", seed=0, failed=fail)
        if int(Path(item.key).stem) not in damaged
    }
    assert [row["key"] for row in done] == list(expected)
    assert {row["key"]: row["answer"] for row in done} == expected
    assert all(row == before.get(row["key"], row) for row in done)
    assert not part.exists()
    errors = complete_lines(tmp_path / "out.errors.jsonl")
    assert sorted(int(Path(row["key"]).stem) for row in errors) == list(damaged)
    assert all("is not a picture that can be read" in row["error"] for row in errors)


@pytest.mark.slow
def test_pictures_killed_and_resumed_are_those_of_an_undisturbed_run(janus, tmp_path, capsys):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("\n".join(PROMPTS * 6), encoding="utf-8")
    command = ["generate", "--prompts", str(prompts), "--out", str(out), "--checkpoint", str(TINY), "--batch", "2"]
    for count in (3, 8):
        run_until(command, lambda count=count: len(list(out.glob("[!.]*.png"))) >= count)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*.png")}
    assert main(command) == 0
    assert f"{30 - len(times)} done, {len(times)} there already" in capsys.readouterr().out
    assert [path.name for path in sorted(out.iterdir())] == [f"{i:06}.png" for i in range(1, 31)]
    assert all((out / name).stat().st_mtime_ns == when for name, when in times.items())
    for i in (0, 1, 15, 29):
        picture = janus.decode(janus.generate((PROMPTS * 6)[i], seed=i))[0]
        assert np.array_equal(np.asarray(Image.open(out / f"{i + 1:06}.png")), np.asarray(to_pil(picture)))


def test_texts_go_beside_the_pictures_and_nothing_is_done_twice(album, capsys, monkeypatch):
    folder = album(4)
    command = ["describe", str(folder), "--out", str(folder), "--checkpoint", str(TINY), "--max-new-tokens", "4"]
    (folder / "001.txt").write_text("mine\n", encoding="utf-8")
    assert main([*command, "--prefix", "photo: "]) == 0
    assert capsys.readouterr().out == f"{folder}: 3 done, 1 there already\n"
    assert (folder / "001.txt").read_text(encoding="utf-8") == "mine\n"
    assert (folder / "more" / "002.txt").read_text(encoding="utf-8").startswith("photo: ")
    monkeypatch.setattr("janus_core.batch.command.load", fail)  # with nothing to do, no model is loaded
    assert main(command) == 0
    assert capsys.readouterr().out == f"{folder}: 0 done, 4 there already\n"
