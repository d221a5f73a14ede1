"""Download a published checkpoint into a folder. An interrupted download resumes."""

import errno
import hashlib
import io
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers

from ..errors import CheckpointError, size_text
from ..published import Published
from .writing import HeldError, locked, remove

PLAIN_NAME = re.compile(r"[\w.-]+")
POLL_SECONDS = 0.2  # between two calls of `progress`
SILENCE_SECONDS = 120.0  # longer than huggingface_hub needs to give up a connection, if it is not told to wait


def fetch(model: Published, folder: Path, *, progress: Callable[[int, int, None], None]) -> None:
    """Download the files of `model` that Janus reads into `folder / model.name`.

    The hub is the one that HF_ENDPOINT names, else huggingface.co. `progress(done, total, None)` is called several
    times a second, in bytes, and may raise to stop: then nothing more is written, although up to 10 MB more may be
    received. What has arrived stays in a hidden folder beside the model's, where the next call resumes. The
    model's own folder gets all of its files or none, each with the size and the hash that the hub lists.
    Raises CheckpointError when another program downloads the same, the hub cannot be reached, refuses or is silent for
    SILENCE_SECONDS, a file arrives damaged, or the disk is too small or cannot be written.
    """
    download = _Download(model, folder)
    try:
        with download.alone():
            _run(download, progress)
            download.install()
    except (HeldError, OSError) as error:
        raise download.explain(error) from error


def _run(download: "_Download", progress: Callable[[int, int, None], None]) -> None:
    thread = Thread(target=download.run, daemon=True)  # so that a silent network cannot hold the caller
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            progress(download.done, download.total or 1, None)
            if time.monotonic() - download.last_sign > SILENCE_SECONDS:
                raise download.explain(_SilentError())
    finally:
        download.stop()
    if download.error is not None:
        raise download.explain(download.error) from download.error


@dataclass(frozen=True, kw_only=True)
class _File:
    """One file of the model: `part` while it arrives, then `whole`.

    `digest` is the SHA-256 of its content, or Git's name for it, or empty if the hub lists none.
    """

    name: str
    size: int
    digest: str
    whole: Path

    @property
    def part(self) -> Path:
        return self.whole.with_name(f"{self.whole.name}.part")

    @property
    def done(self) -> int:
        """Bytes that have arrived."""
        for path in (self.whole, self.part):
            try:
                return path.stat().st_size
            except OSError:
                continue
        return 0


class _Stopped(Exception):
    pass


class _SilentError(Exception):
    pass


class _Download:
    """One attempt, run in a thread of its own. After `stop` returns it changes nothing on the disk."""

    def __init__(self, model: Published, folder: Path):
        self.model = model
        self.target = folder / model.name
        self.error: Exception | None = None
        self.last_sign = time.monotonic()  # when something last arrived, or was checked
        self._staging = folder / f".{model.name}.download"
        self._files: list[_File] = []
        self._writing = Lock()
        self._stopped = False

    @property
    def done(self) -> int:
        return sum(file.done for file in self._files)

    @property
    def total(self) -> int:
        return sum(file.size for file in self._files)

    def run(self) -> None:
        try:
            self._fetch_all()
        except Exception as error:  # noqa: BLE001 (the caller raises it)
            self.error = error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other downloads of this model into this folder out. Raises HeldError if there is one, and OSError."""
        path = self._staging.with_name(f"{self._staging.name}.lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path) as lock:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {platform.node()}".encode())
            try:
                yield
            finally:
                remove(path, lock)

    def stop(self) -> None:
        with self._writing:
            self._stopped = True

    @contextmanager
    def change(self) -> Iterator[None]:
        """Around each change on the disk: a stopped attempt must not change files that a later one may be writing."""
        with self._writing:
            self._check_stopped()
            yield
        self.last_sign = time.monotonic()

    def _check_stopped(self) -> None:
        if self._stopped:
            raise _Stopped

    def _fetch_all(self) -> None:
        self._files, commit = self._list_files()
        with self.change():
            self._staging.mkdir(exist_ok=True)
        free = shutil.disk_usage(self._staging).free
        if (missing := self.total - self.done) > free:
            raise CheckpointError(
                f"{self.model.name} needs {size_text(missing)} more and the disk of {self.target.parent} has "
                f"{size_text(free)} left: make room there and run again, or {self._by_hand}."
            )
        for file in self._files:
            if not file.whole.is_file():
                self._fetch(file, hf_hub_url(self.model.repo, file.name, revision=commit))
        # Last, so that each file is checked once, however many attempts it took.
        for file in self._files:
            self._check(file)

    def _list_files(self) -> tuple[list[_File], str | None]:
        """The files that Janus reads, weights in one format only, and the commit they belong to."""
        try:
            info = HfApi().model_info(self.model.repo, files_metadata=True)
            listed = [file for file in info.siblings or () if PLAIN_NAME.fullmatch(file.rfilename)]
            suffix = ".safetensors" if any(file.rfilename.endswith(".safetensors") for file in listed) else ".bin"
            files = [self._file(file) for file in listed if file.rfilename.endswith((".json", suffix))]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, OSError):  # an answer that is no JSON
                raise
            raise self._unusable_list(f"{type(error).__name__}: {error}") from error
        names = {file.name for file in files}
        if "config.json" not in names or not any(name.endswith(suffix) for name in names):
            raise self._unusable_list("it has no config.json or no weights")
        return files, info.sha

    def _file(self, listed: RepoSibling) -> _File:
        digest = (listed.lfs.sha256 if listed.lfs else listed.blob_id) or ""
        # The digest is part of the name, so a file that has changed on the hub is not resumed.
        whole = self._staging / f"{re.sub(r'[^0-9a-f]', '', digest)}-{listed.rfilename}"
        size: Any = listed.size  # whatever the hub's answer has
        return _File(name=listed.rfilename, size=int(size), digest=digest, whole=whole)

    def _unusable_list(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self._page} has no usable list of the files of {self.model.name} ({why}): correct HF_ENDPOINT if you have "
            f"set it, run again later, or {self._by_hand}."
        )

    def _fetch(self, file: _File, url: str) -> None:
        # 1. More bytes than the file has cannot be its beginning: start again.
        with self.change():
            if file.done > file.size:
                file.part.unlink()
            part = _PartialFile(file.part, self)
        # 2. http_get asks for the bytes after `resume_size`, appends them, and checks the final size.
        with part:
            http_get(url, part, resume_size=file.done, headers=build_hf_headers(), expected_size=file.size)
        with self.change():
            file.part.rename(file.whole)

    def _check(self, file: _File) -> None:
        """Delete a file of another size or content than the hub lists, and raise. It shows damage of any attempt."""
        if file.done == file.size and self._digest(file) == file.digest:
            return
        with self.change():
            file.whole.unlink()
        raise CheckpointError(
            f"{file.name} of {self.model.name} came damaged from {self._page} and was deleted: run again to download "
            f"it, or {self._by_hand}."
        )

    def _digest(self, file: _File) -> str:
        """The file's digest, of the kind that the hub lists for it."""
        if not file.digest:
            return ""
        if len(file.digest) == 64:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)  # as Git does it
        with file.whole.open("rb") as content:
            while block := content.read(1 << 22):
                self._check_stopped()
                digest.update(block)
                self.last_sign = time.monotonic()
        return digest.hexdigest()

    def install(self) -> None:
        """Move the files into the model's folder; `config.json`, which makes it a checkpoint, comes last.

        If one cannot be moved, those that were are moved back, and OSError is raised.
        """
        moved: list[_File] = []
        try:
            self.target.mkdir(exist_ok=True)
            for file in sorted(self._files, key=lambda file: file.name == "config.json"):
                file.whole.replace(self.target / file.name)
                moved.append(file)
        except OSError:
            for file in moved:
                with suppress(OSError):
                    (self.target / file.name).replace(file.whole)
            raise
        shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def _page(self) -> str:
        return f"{constants.ENDPOINT}/{self.model.repo}"

    @property
    def _by_hand(self) -> str:
        return f"get the files from {self._page} yourself and put them into {self.target}"

    def explain(self, error: Exception) -> CheckpointError:
        """The error as one sentence with a cure."""
        if isinstance(error, CheckpointError):
            return error
        if isinstance(error, HeldError):
            text = f"{self.model.name} is being downloaded into {self.target} by {str(error) or 'another program'}"
            return CheckpointError(f"{text}: wait until it is there.")
        if isinstance(error, _SilentError):
            text = (
                f"{self._page} has sent nothing of {self.model.name} for {SILENCE_SECONDS:.0f} seconds, perhaps because it "
                "has had too many requests: run again later to resume"
            )
        elif isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            cure = {
                401: "log in with `hf auth login` if it asks for an account",
                403: "ask for access there and log in with `hf auth login`",
                404: "correct HF_ENDPOINT if you have set it",
                429: "it has had too many requests, so run again in an hour to resume",
            }.get(status, "run again later to resume")
            text = f"{self._page} refused to give {self.model.name} (error {status}): {cure}"
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text = f"The disk of {self.target.parent} is full: make room and run again to resume"
        elif isinstance(error, OSError) and error.filename is not None:
            text = (
                f"{self.model.name} could not be written into {self.target.parent} ({error}): allow writing there, close "
                "the programs that use these files, and run again to resume"
            )
        elif "HF_HUB_ENABLE_HF_TRANSFER" in str(error):  # huggingface_hub before 1.0, which cannot stop or resume it
            text = f"{self.model.name} cannot be downloaded through hf_transfer: unset HF_HUB_ENABLE_HF_TRANSFER and start again"
        else:
            why = next(iter(str(error).splitlines()), type(error).__name__).partition(". ")[0].rstrip(".")
            text = (
                f"{self.model.name} could not be downloaded from {self._page} ({why}): check the connection and run "
                "again to resume"
            )
        return CheckpointError(f"{text}, or {self._by_hand}.")


class _PartialFile(io.BufferedWriter):
    """A file that is still arriving, which refuses changes once its download is stopped."""

    def __init__(self, path: Path, download: _Download):
        super().__init__(io.FileIO(path, "ab"))
        self._download = download

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        with self._download.change():
            count = super().write(data)
            self.flush()
            return count

    def truncate(self, size: int | None = None) -> int:
        with self._download.change():
            return super().truncate(size)
