"""A real local Ray cluster of two workers: what it makes is what one process makes, also when a worker is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from janus_core.__main__ import main

PACK = Path(__file__).parents[2]
TINY = ["--checkpoint", str(PACK / "tests" / "data" / "tiny_deepseek")]
ON_RAY = [*TINY, "--ray", "--cores", str(max(1, (os.cpu_count() or 2) // 2)), "--batch", "1"]


def album(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.effect_noise((40 + i, 60), 40 + i).convert("RGB").save(folder / f"{i:03}.png")
    (folder / "damaged.png").write_bytes(b"no picture")
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def started(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "janus_core", *arguments], cwd=PACK)  # noqa: S603 (our own interpreter)


def run_on_ray(*arguments: str) -> subprocess.CompletedProcess:
    """A process of its own, since Ray's does not start and end several times in one."""
    command = [sys.executable, "-m", "janus_core", *arguments]
    return subprocess.run(command, cwd=PACK, capture_output=True, text=True, check=False)  # noqa: S603 (our own)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The actors' processes, which Ray names after what they are."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found += [child] if "MapWorker" in " ".join(child.cmdline()) else []
        except psutil.Error:  # it has just ended
            continue
    return found


def test_answers_are_those_of_one_process_also_when_a_worker_and_then_the_whole_run_is_killed(tmp_path: Path) -> None:
    folder, out, part = album(tmp_path / "album", 60), tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    command = ["describe", str(folder), "--max-new-tokens", "60", "--question", "What?"]
    run = started([*command, *ON_RAY, "--out", str(out)])
    seen: set[int] = set()
    while len(rows(part)) < 4:
        assert run.poll() is None
        seen |= {worker.pid for worker in workers(run)}
        time.sleep(0.02)
    assert len(seen) == 2
    victim = workers(run)[0]
    victim.kill()
    kept = len(rows(part))
    while len(rows(part)) < kept + 12:
        assert run.poll() is None
        time.sleep(0.02)
    family = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]
    for process in family:
        process.kill()
    run.wait()
    assert 16 <= len(rows(part)) < 60 and not out.exists()
    assert run_on_ray(*command, *ON_RAY, "--out", str(out)).returncode == 0
    assert main([*command, *TINY, "--out", str(tmp_path / "one.jsonl")]) == 0
    assert out.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert len(rows(out)) == 60
    assert [row["key"] for row in rows(tmp_path / "out.errors.jsonl")] == ["damaged.png"]


def test_pictures_are_those_of_one_process(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "a red cat"}, {"prompt": "the boat", "seed": 2**64 - 1}, {"prompt": " "}, {"prompt": "an owl"}]
    prompts.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    command = ["generate", "--prompts", str(prompts), "--out"]
    assert run_on_ray(*command, str(tmp_path / "ray"), *ON_RAY).returncode == 0
    assert main([*command, str(tmp_path / "one"), *TINY]) == 0
    names = ["000001.png", "000002.png", "000004.png", "janus-errors.jsonl"]
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == names
    assert all((tmp_path / "ray" / name).read_bytes() == (tmp_path / "one" / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ray", "--checkpoint", "nowhere"], "There is no Janus checkpoint at nowhere"),
        ([*TINY, "--ray", "--cores", "100000"], "The Ray cluster has fewer than 100000 cores"),
        ([*TINY, "--ray", "127.0.0.1:1"], "There is no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_what_stops_the_work_is_one_sentence(tmp_path: Path, arguments: list[str], expected: str) -> None:
    folder = album(tmp_path / "album", 1)
    done = run_on_ray("describe", str(folder), "--out", str(tmp_path / "out.jsonl"), *arguments)
    assert done.returncode == 2 and f"janus_core: {expected}" in done.stderr and "Traceback" not in done.stderr
