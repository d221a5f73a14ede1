"""Download a published checkpoint into a folder. An interrupted download resumes."""

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
from ..published import Published

PLAIN_NAME = re.compile(r"[\w.-]+")
POLL_SECONDS = 0.2  # between two calls of `progress`


def fetch(model: Published, folder: Path, *, progress: Callable[[int, int, None], None]) -> None:
    """Download the files of `model` that Janus reads into `folder / model.name`.

    The hub is the one that HF_ENDPOINT names, else huggingface.co. `progress(done, total, None)` is called several
    times a second, in bytes, and may raise to stop: then nothing more is written, although up to 10 MB more may be
    received. What has arrived stays in a hidden folder beside the model's, where the next call resumes. The
    model's own folder gets all of its files or none.
    Raises CheckpointError when the hub cannot be reached or refuses, a file arrives damaged, or the disk is too small.
    """
    download = _Download(model, folder)
    thread = Thread(target=download.run, daemon=True)  # so that a silent network cannot hold the caller
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            progress(download.done, download.total or 1, None)
    finally:
        download.stop()
    if download.error is not None:
        raise download.explain(download.error) from download.error
    download.install()


@dataclass(frozen=True, kw_only=True)
class _File:
    """One file of the model: `part` while it arrives, `whole` once its content is checked."""

    name: str
    size: int
    sha256: str | None
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


class _Download:
    """One attempt, run in a thread of its own. After `stop` returns it writes nothing."""

    def __init__(self, model: Published, folder: Path):
        self.model = model
        self.target = folder / model.name
        self.error: Exception | None = None
        self.writing = Lock()
        self._staging = folder / f".{model.name}.download"
        self._files: list[_File] = []
        self._stopped = Event()

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

    def stop(self) -> None:
        with self.writing:
            self._stopped.set()

    def check_stopped(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    def _fetch_all(self) -> None:
        self._files, commit = self._list_files()
        self._staging.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._staging).free
        if (missing := self.total - self.done) > free:
            raise CheckpointError(
                f"{self.model.name} needs {missing / 1e9:,.1f} GB more and the disk of {self.target.parent} has "
                f"{free / 1e9:,.1f} GB left: make room there and run again, or {self._by_hand}."
            )
        for file in self._files:
            if not file.whole.is_file():
                self._fetch(file, hf_hub_url(self.model.repo, file.name, revision=commit))

    def _list_files(self) -> tuple[list[_File], str | None]:
        """The files that Janus reads, weights in one format only, and the commit they belong to."""
        info = HfApi().model_info(self.model.repo, files_metadata=True)
        listed = [file for file in info.siblings or () if PLAIN_NAME.fullmatch(file.rfilename)]
        safe = any(file.rfilename.endswith(".safetensors") for file in listed)
        files = []
        for file in listed:
            if file.rfilename.endswith((".json", ".safetensors" if safe else ".bin")):
                sha256 = file.lfs.sha256 if file.lfs else None
                # The content's hash is part of the name, so a file that has changed on the hub is not resumed.
                content = re.sub(r"\W", "", sha256 or file.blob_id or "")
                whole = self._staging / f"{content}-{file.rfilename}"
                files.append(_File(name=file.rfilename, size=file.size or 0, sha256=sha256, whole=whole))
        return files, info.sha

    def _fetch(self, file: _File, url: str) -> None:
        # 1. More bytes than the file has cannot be its beginning: start again.
        if file.done > file.size:
            file.part.unlink()
        # 2. http_get asks for the bytes after `resume_size`, appends them, and checks the final size.
        with _PartialFile(file.part, self) as part:
            http_get(url, part, resume_size=file.done, headers=build_hf_headers(), expected_size=file.size)
        # 3. The hash shows damage of any attempt, which is why it is taken from the disk.
        if file.sha256 is not None and self._sha256(file.part) != file.sha256:
            file.part.unlink()
            raise CheckpointError(
                f"{file.name} of {self.model.name} came damaged from {self._page} and was deleted: run again to download "
                f"it, or {self._by_hand}."
            )
        # 4. A stopped attempt must not rename a file that a later attempt may be writing.
        self.check_stopped()
        file.part.rename(file.whole)

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                self.check_stopped()
                digest.update(block)
        return digest.hexdigest()

    def install(self) -> None:
        """Move the files into the model's folder; `config.json`, which makes it a checkpoint, comes last."""
        self.target.mkdir(exist_ok=True)
        for file in sorted(self._files, key=lambda file: file.name == "config.json"):
            file.whole.replace(self.target / file.name)
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
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            cure = {
                401: "log in with `hf auth login` if it asks for an account",
                403: "ask for access there and log in with `hf auth login`",
                404: "correct HF_ENDPOINT if you have set it",
            }.get(status, "run again later to resume")
            text = f"{self._page} refused to give {self.model.name} (error {status}): {cure}"
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            text = f"The disk of {self.target.parent} is full: make room and run again to resume"
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
    """A file that is still arriving, which refuses data once its download is stopped."""

    def __init__(self, path: Path, download: _Download):
        super().__init__(io.FileIO(path, "ab"))
        self._download = download

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        with self._download.writing:
            self._download.check_stopped()
            count = super().write(data)
            self.flush()
            return count
