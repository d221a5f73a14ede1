"""Which checkpoints are listed, and how often the model folders are read for that."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
Listing = Callable[[], set[str]]


@pytest.fixture
def folders(pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With the test's own folder as the only model folder."""
    module = pack("nodes.host.folders")
    monkeypatch.setattr(module, "checkpoint_folders", lambda: [tmp_path])
    monkeypatch.setattr(module, "_last_listing", None)
    return module


@pytest.fixture
def listed(folders: ModuleType) -> Listing:
    return lambda: set(folders.checkpoints()) - {folders.EMBEDDED}


@pytest.fixture
def reads(folders: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with each folder that is read."""
    made: list[Any] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: made.append(path) or listdir(path))
    return made


def age(folder: Path) -> None:
    """Everything was last changed a day ago."""
    for path in [folder, *folder.rglob("*")]:
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 86_400_000_000_000))


def test_links_back_to_a_folder_above_are_not_followed(listed: Listing, tmp_path: Path) -> None:
    for name in ("a", "b", "a/c"):
        (tmp_path / name).mkdir()
        for i, target in enumerate((tmp_path, tmp_path / "a", tmp_path / "b")):
            (tmp_path / name / f"link{i}").symlink_to(target, target_is_directory=True)
    (tmp_path / "self").symlink_to("self")
    shutil.copytree(TINY, tmp_path / "b" / "tiny")
    assert {"b/tiny", "a/link2/tiny"} <= listed()
    assert max(name.count("/") for name in listed()) <= 4


def test_two_names_of_one_folder_are_both_listed(listed: Listing, tmp_path: Path) -> None:
    """A workflow may name either."""
    shutil.copytree(TINY, tmp_path / "store" / "tiny")
    (tmp_path / "mine").symlink_to(tmp_path / "store" / "tiny", target_is_directory=True)
    assert listed() == {"store/tiny", "mine"}


def test_folders_that_have_not_changed_are_read_once(
    folders: ModuleType, listed: Listing, reads: list[Any], tmp_path: Path
) -> None:
    shutil.copytree(TINY, tmp_path / "tiny")
    age(tmp_path)
    assert listed() == {"tiny"}
    count = len(reads)
    for _ in range(3):
        assert listed() == {"tiny"} and folders.checkpoint_path("tiny") == tmp_path / "tiny" and folders.downloads()
    assert len(reads) == count == 2


def test_a_new_checkpoint_appears_and_a_removed_one_goes(listed: Listing, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "deep" / "tiny")
    age(tmp_path)
    assert listed() == listed() == {"deep/tiny"}
    shutil.copytree(TINY, tmp_path / "deep" / "other")
    assert listed() == {"deep/tiny", "deep/other"}
    age(tmp_path)
    assert listed() == {"deep/tiny", "deep/other"}
    shutil.rmtree(tmp_path / "deep" / "tiny")
    assert listed() == {"deep/other"}


def test_a_change_right_after_a_reading_is_seen_at_equal_times(listed: Listing, tmp_path: Path) -> None:
    """Some file systems count whole seconds."""
    assert listed() == set()
    stat = tmp_path.stat()
    shutil.copytree(TINY, tmp_path / "tiny")
    os.utime(tmp_path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert listed() == {"tiny"}


def test_a_file_that_is_copied_into_place_appears_when_it_is_whole(pack: Any, listed: Listing, tmp_path: Path) -> None:
    """Its folder changes only when the copy begins."""
    source = pack("janus_core.convert").convert(TINY, tmp_path / "whole.safetensors", dtype="fp32")
    content = source.read_bytes()
    source.unlink()
    path = tmp_path / "copied.safetensors"
    path.write_bytes(content[:1000])
    age(tmp_path)
    assert listed() == set()
    path.write_bytes(content)
    assert listed() == {"copied.safetensors"}


def test_what_a_link_leads_to_appears_when_its_drive_does(listed: Listing, tmp_path: Path) -> None:
    drive = tmp_path.with_name(f"{tmp_path.name} drive")
    (tmp_path / "link").symlink_to(drive / "tiny", target_is_directory=True)
    os.utime(tmp_path, ns=(0, 0))
    assert listed() == set()
    shutil.copytree(TINY, drive / "tiny")
    assert listed() == {"link"}


def test_a_long_name_from_a_workflow_is_not_repeated_in_full(folders: ModuleType) -> None:
    for find in (folders.checkpoint_path, folders.lora_path):
        with pytest.raises(ValueError, match="There is no") as caught:
            find("a\n" * 100_000)
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
