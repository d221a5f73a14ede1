"""Downloads into one folder by two programs, hubs with odd answers, disks that refuse. tests/comfy has the usual ways."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from small_hub import SmallHub

from janus_core import CheckpointError
from janus_core.published import Published
from janus_core.weights import download
from janus_core.weights.download import fetch

MODEL = Published(repo="someone/Small-Janus", size=14_000_000, language={})
FILES = {"config.json": b'{"a": 1}', "tokenizer.json": b"{}", "model.safetensors": bytes(range(256)) * 56_000}
Fetch = Callable[..., None]


def nothing(*_: object) -> None:
    pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    with SmallHub() as hub:
        hub.repos[MODEL.repo] = FILES
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        address = f"{hub.address}/{{}}/resolve/{{revision}}/{{}}".format
        monkeypatch.setattr(download, "hf_hub_url", address)
        yield hub


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(MODEL, folder, progress=nothing)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_complete(folder: Path) -> None:
    assert {path.name: path.read_bytes() for path in (folder / MODEL.name).iterdir()} == FILES
    assert [path.name for path in folder.iterdir()] == [MODEL.name]


def test_a_second_download_into_the_folder_is_refused_and_the_first_is_not_disturbed(hub, tmp_path):
    hub.trouble.stall_at = 12_000_000
    second = []

    def progress(done: int, total: int, _: None) -> None:
        if done >= 10_000_000 and not second:
            second.append(refused(tmp_path))
            hub.trouble.stall_at = None
            hub.trouble.over.set()

    fetch(MODEL, tmp_path, progress=progress)
    assert "is being downloaded into" in second[0] and "by process " in second[0]
    assert_complete(tmp_path)


def test_a_download_stopped_in_this_process_leaves_the_folder_free_for_the_next(hub, tmp_path):
    hub.trouble.stall_at = 12_000_000

    def stop(done: int, total: int, _: None) -> None:
        if done >= 10_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(MODEL, tmp_path, progress=stop)
    hub.trouble.stall_at = None  # the first connection still waits
    fetch(MODEL, tmp_path, progress=nothing)
    assert_complete(tmp_path)


def test_a_folder_whose_downloading_process_was_killed_is_free(hub, tmp_path):
    (tmp_path / f".{MODEL.name}.download.lock").write_text("process 1 on nowhere")
    fetch(MODEL, tmp_path, progress=nothing)
    assert_complete(tmp_path)


def test_a_small_file_that_came_damaged_is_deleted(hub, tmp_path):
    hub.trouble.flip_small = True
    assert "of Small-Janus came damaged" in refused(tmp_path)
    assert not (tmp_path / MODEL.name).exists()
    hub.trouble.flip_small = False
    assert "came damaged" in refused(tmp_path)  # the other small file, of the first attempt
    fetch(MODEL, tmp_path, progress=nothing)
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", bytes(FILES["model.safetensors"][:-1]), b"\1" + FILES["model.safetensors"][1:]]
)
def test_a_waiting_file_that_was_changed_between_two_attempts_is_not_put_in_place(hub, tmp_path, content):
    staging = tmp_path / f".{MODEL.name}.download"
    staging.mkdir()
    digest = hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    (staging / f"{digest}-model.safetensors").write_bytes(content)
    assert "model.safetensors of Small-Janus came damaged" in refused(tmp_path)
    fetch(MODEL, tmp_path, progress=nothing)
    assert_complete(tmp_path)


LISTED = [
    {
        "rfilename": name,
        "size": len(content),
        "blobId": hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest(),
    }
    for name, content in FILES.items()
]


def test_sizes_listed_as_text_are_numbers(hub, tmp_path):
    listed = [entry | {"size": str(entry["size"])} for entry in LISTED]
    hub.trouble.listing = {"id": MODEL.repo, "sha": "0123456789abcdef0123456789abcdef01234567", "siblings": listed}
    fetch(MODEL, tmp_path, progress=nothing)
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    "listing",
    [
        {"id": MODEL.repo},
        {"id": MODEL.repo, "siblings": []},
        {"id": MODEL.repo, "siblings": [{"name": "config.json"}]},
        {"id": MODEL.repo, "siblings": [{"rfilename": 5, "size": 2}]},
        {"id": MODEL.repo, "siblings": [{"rfilename": "model.safetensors", "size": 2}]},
        {"id": MODEL.repo, "siblings": [entry | {"size": None} for entry in LISTED]},
        {"id": MODEL.repo, "siblings": [entry | {"size": "a lot"} for entry in LISTED]},
        {"siblings": LISTED},
        {},
        ["no"],
        "no",
    ],
    ids=str,
)
def test_a_list_of_files_that_is_none_is_said_to_be_that(hub, tmp_path, listing):
    hub.trouble.listing = listing
    assert "has no usable list of the files of Small-Janus" in refused(tmp_path)
    assert not (tmp_path / MODEL.name).exists()


def test_a_hub_that_asks_to_wait_an_hour_is_not_waited_for(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SILENCE_SECONDS", 1.0)
    hub.trouble.retry_after = 3600
    assert "has sent nothing of Small-Janus for 1 seconds, perhaps because it has had too many" in refused(tmp_path)
    hub.trouble.retry_after = None
    fetch(MODEL, tmp_path, progress=nothing)
    assert_complete(tmp_path)


def test_a_wait_that_the_hub_asks_for_can_be_interrupted(hub, tmp_path):
    hub.trouble.retry_after = 3600

    def stop(*_: object) -> None:
        if any(path.endswith("model.safetensors") for path, _ in hub.asked):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(MODEL, tmp_path, progress=stop)


def test_too_many_requests_for_the_list_are_said(hub, tmp_path):
    hub.trouble.status = 429
    assert "(error 429): it has had too many requests" in refused(tmp_path)


def test_a_file_that_cannot_be_put_in_place_leaves_none_there_and_nothing_is_fetched_again(hub, tmp_path, monkeypatch):
    replace = Path.replace

    def in_use(self: Path, target: Path) -> Path:
        if target.name == "config.json":
            raise PermissionError(13, "The file is used by another process", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", in_use)
    error = refused(tmp_path)
    assert "could not be written into" in error and "used by another process" in error and "close the programs" in error
    assert not list((tmp_path / MODEL.name).iterdir())
    monkeypatch.setattr(Path, "replace", replace)
    hub.asked.clear()
    fetch(MODEL, tmp_path, progress=nothing)
    assert [path for path, _ in hub.asked] == [f"/api/models/{MODEL.repo}"]
    assert_complete(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_said(hub, tmp_path):
    (tmp_path / MODEL.name).write_text("a file")
    assert "could not be written into" in refused(tmp_path)
    (tmp_path / "models").write_text("a file")
    assert "could not be written into" in refused(tmp_path / "models")
