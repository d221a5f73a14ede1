"""Published checkpoints: which there are, and how one comes from its hub into a folder, in as many tries as needed."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from ..errors import CheckpointError

FILE = re.compile(r"[\w.-]+")
LOOK = 0.2  # seconds between two looks at how far it is, and whether to stop


@dataclass(frozen=True)
class Published:
    """A checkpoint's repository on the hub, and about how many bytes its files take."""

    repo: str
    size: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return self.repo.rpartition("/")[2]


PUBLISHED = (
    Published("deepseek-ai/Janus-Pro-1B", 4_200_000_000),
    Published("deepseek-ai/Janus-Pro-7B", 14_800_000_000),
    Published("deepseek-ai/Janus-1.3B", 4_200_000_000),
)


def fetch(model: Published, folder: Path, progress: Callable[[int, int, None], None]) -> None:
    """Download the files that Janus reads of `model` into `folder / model.name`.

    The hub is the one that HF_ENDPOINT names, else huggingface.co. `progress(done, total, None)` is called several
    times a second, in bytes. When it raises, nothing more is written, and the exception goes on to the caller; the
    connection closes within the next 10 MB that come. What has arrived stays in a hidden folder beside the model's,
    where the next call takes it up; the model's own folder gets all of its files or none.
    Raises CheckpointError when the hub cannot be reached or refuses, a file comes damaged, or the disk is too small.
    """
    download = _Download(model, folder)
    thread = Thread(target=download.run, daemon=True)  # so that a silent network cannot hold the caller
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK)
            progress(download.done, download.total or 1, None)
    finally:
        download.stop()
    if download.error is not None:
        raise download.failure(download.error) from download.error
    download.put_in_place()


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    sha256: str | None
    whole: Path
    part: Path

    @property
    def done(self) -> int:
        for path in (self.whole, self.part):
            try:
                return path.stat().st_size
            except OSError:
                continue
        return 0


class _Stopped(Exception):
    pass


class _Download:
    """One try, in a thread of its own: what is written of it after `stop` is nothing."""

    def __init__(self, model: Published, folder: Path):
        self.model = model
        self.target = folder / model.name
        self.error: Exception | None = None
        self._waiting = folder / f".{model.name}.download"
        self._files: list[_File] = []
        self._stopped = Event()
        self.writing = Lock()

    @property
    def done(self) -> int:
        return sum(file.done for file in self._files)

    @property
    def total(self) -> int:
        return sum(file.size for file in self._files)

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 (the caller raises it)
            self.error = error

    def stop(self) -> None:
        with self.writing:
            self._stopped.set()

    def go_on(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    def _run(self) -> None:
        self._files, commit = self._listed()
        self._waiting.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(self._waiting).free
        if (more := self.total - self.done) > room:
            raise CheckpointError(
                f"{self.model.name} needs {more / 1e9:,.1f} GB more and the disk of {self.target.parent} has "
                f"{room / 1e9:,.1f} GB left: make room there and run again, or {self._by_hand}."
            )
        for file in self._files:
            if not file.whole.is_file():
                self._fetch(file, hf_hub_url(self.model.repo, file.name, revision=commit))

    def _listed(self) -> tuple[list[_File], str | None]:
        """The files that are needed, those of the weights in one format only, and the commit they belong to."""
        info = HfApi().model_info(self.model.repo, files_metadata=True)
        listed = [file for file in info.siblings or () if FILE.fullmatch(file.rfilename)]
        safe = any(file.rfilename.endswith(".safetensors") for file in listed)
        files = []
        for file in listed:
            if file.rfilename.endswith((".json", ".safetensors" if safe else ".bin")):
                sha256 = file.lfs.sha256 if file.lfs else None
                content = re.sub(r"\W", "", sha256 or file.blob_id or "")
                whole = self._waiting / f"{content}-{file.rfilename}"
                part = whole.with_name(f"{whole.name}.part")
                files.append(_File(file.rfilename, file.size or 0, sha256, whole, part))
        return files, info.sha

    def _fetch(self, file: _File, url: str) -> None:
        if file.done > file.size:
            file.part.unlink()
        with _Part(file.part, self) as part:
            http_get(url, part, resume_size=file.done, headers=build_hf_headers(), expected_size=file.size)
        if file.sha256 is not None and self._sha256(file.part) != file.sha256:
            file.part.unlink()
            raise CheckpointError(
                f"{file.name} of {self.model.name} came damaged from {self._page} and was thrown away: run again to "
                f"fetch it anew, or {self._by_hand}."
            )
        self.go_on()
        file.part.rename(file.whole)

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                self.go_on()
                digest.update(block)
        return digest.hexdigest()

    def put_in_place(self) -> None:
        """`config.json`, without which a folder is no checkpoint, comes last."""
        self.target.mkdir(exist_ok=True)
        for file in sorted(self._files, key=lambda file: file.name == "config.json"):
            file.whole.replace(self.target / file.name)
        shutil.rmtree(self._waiting, ignore_errors=True)

    @property
    def _page(self) -> str:
        return f"{constants.ENDPOINT}/{self.model.repo}"

    @property
    def _by_hand(self) -> str:
        return f"get the files from {self._page} yourself and put them into {self.target}"

    def failure(self, error: Exception) -> CheckpointError:
        """The error as one sentence."""
        if isinstance(error, CheckpointError):
            return error
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            cure = {
                401: "log in with `hf auth login` if it asks for an account",
                403: "ask for access there and log in with `hf auth login`",
                404: "correct HF_ENDPOINT if you have set it",
            }.get(status, "run again later to go on from what has arrived")
            text = f"{self._page} refused to give {self.model.name} (error {status}): {cure}"
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text = f"The disk of {self.target.parent} is full: make room and run again to go on from what has arrived"
        elif "HF_HUB_ENABLE_HF_TRANSFER" in str(error):  # huggingface_hub before 1.0, which it cannot stop or go on
            text = f"{self.model.name} cannot come through hf_transfer: unset HF_HUB_ENABLE_HF_TRANSFER and start again"
        else:
            why = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0].rstrip(".")
            text = (
                f"{self.model.name} could not be downloaded from {self._page} ({why}): check the connection and run "
                "again to go on from what has arrived"
            )
        return CheckpointError(f"{text}, or {self._by_hand}.")


class _Part(io.BufferedWriter):
    """A file that is still coming; it takes nothing more once its download is stopped."""

    def __init__(self, path: Path, download: _Download):
        super().__init__(io.FileIO(path, "ab"))
        self._download = download

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        with self._download.writing:
            self._download.go_on()
            count = super().write(data)
            self.flush()
            return count
