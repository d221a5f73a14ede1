"""Files that others may read or write: one writer at a time, and never written into."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import janus_core
from janus_core import InputError
from janus_core.convert import convert
from janus_core.weights import writing
from janus_core.weights.saving import save_weights
from janus_core.weights.writing import HeldError, locked, replacing

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
PACK = Path(__file__).parents[2]
HOLD = """
import sys; from pathlib import Path
from janus_core.weights.writing import locked
with locked(Path(sys.argv[1])) as lock:
    lock.write(b"me"); print("held", flush=True); sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_keeps_other_processes_out_and_ends_with_its_process(tmp_path):
    file = tmp_path / "lock"
    other = subprocess.Popen(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PACK
    )
    assert other.stdout and other.stdout.readline() == b"held\n"
    with pytest.raises(HeldError, match="me"), locked(file):
        pass
    other.kill()
    other.wait()
    with locked(file):
        pass


def test_a_lock_on_a_file_that_its_holder_removed_is_taken_on_the_new_file(tmp_path, monkeypatch):
    """Another process opens the file, and only then is it removed and the lock free."""
    file, take, removed = tmp_path / "lock", writing._lock, []

    def remove_first(descriptor: int) -> None:
        if not removed:
            removed.append(file.unlink())
        take(descriptor)

    monkeypatch.setattr(writing, "_lock", remove_first)
    with locked(file):
        assert file.exists()
        with pytest.raises(HeldError), locked(file):
            pass


def test_a_second_writer_of_a_name_is_refused_and_the_first_is_not_disturbed(tmp_path):
    path, second = tmp_path / "new.safetensors", []

    def write_too(step: int, total: int, _: None) -> None:
        if step == 3:
            thread = threading.Thread(target=lambda: second.append(pytest.raises(InputError, convert, TINY, path)))
            thread.start()
            thread.join()

    convert(TINY, path, progress=write_too)
    assert "is being written by another program" in str(second[0].value)
    assert janus_core.load(path) and names(tmp_path) == [path.name]


def test_what_killed_processes_left_is_deleted_by_the_next_and_what_others_write_is_not(tmp_path):
    left, others = tmp_path / ".old.safetensors.part", tmp_path / ".other.safetensors.part"
    left.write_bytes(b"half")
    (tmp_path / ".new.safetensors.part").write_bytes(bytes(10_000_000))  # longer than the file that comes
    with locked(others):
        path = convert(TINY, tmp_path / "new.safetensors")
        assert names(tmp_path) == [others.name, path.name]
    assert path.stat().st_size < 10_000_000 and janus_core.load(path)


def test_a_read_only_folder_is_said_with_its_reason(tmp_path, monkeypatch):
    def read_only(path: Path, mode: str) -> None:  # the tests' user may be one that no folder refuses
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(writing, "FileIO", read_only)
    with pytest.raises(InputError, match=r"new\.safetensors could not be written \(.*Permission denied"):
        convert(TINY, tmp_path / "new.safetensors")


def test_the_reason_of_a_failed_write_is_not_hidden_by_the_clearing_up(tmp_path, monkeypatch):
    def fail(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "not to be deleted")

    with pytest.raises(InputError, match="the disk is on fire"), replacing(tmp_path / "new"):
        monkeypatch.setattr(Path, "unlink", fail)
        raise OSError("the disk is on fire")


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_name_too_long_for_file_systems_is_refused(tmp_path, letter):
    with pytest.raises(InputError, match=r"takes \d+ bytes and may take 240: choose a shorter one"):
        convert(TINY, tmp_path / f"{letter * 230}.safetensors")
    longest = "x" * (240 - len(".safetensors")) + ".safetensors"
    assert convert(TINY, tmp_path / longest).exists()


def test_saving_a_trained_model_leaves_a_file_that_is_open_as_it_was(tmp_path, janus):
    path = tmp_path / "model.safetensors"
    save_weights(janus.model, tmp_path, torch.float32)
    before = path.read_bytes()
    with path.open("rb") as opened, safe_open(path, framework="pt") as mapped:
        save_weights(janus.model, tmp_path, torch.bfloat16)
        assert opened.read() == before
        assert mapped.get_tensor("language_model.lm_head.weight").dtype == torch.float32
    assert path.stat().st_size < len(before) and names(tmp_path) == [path.name]


def test_no_writer_of_tensors_writes_into_a_file_in_place():
    """save_file truncates the file that is there, so it is called in one place, on a file of no reader."""
    callers = [
        path.relative_to(PACK).as_posix()
        for folder in ("janus_core", "nodes")
        for path in (PACK / folder).rglob("*.py")
        if re.search(r"\bsave_file\(|\bserialize_file\(", path.read_text(encoding="utf-8"))
    ]
    assert callers == ["janus_core/weights/saving.py"]
