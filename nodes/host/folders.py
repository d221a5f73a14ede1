"""ComfyUI's folders: which checkpoints, LoRAs and tokens are in them, and which file a name in a workflow means."""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import folder_paths

from ...janus_core import DEFAULT_CHECKPOINT, CheckpointError, InputError
from ...janus_core.errors import shown
from ...janus_core.published import DOWNLOADS, Published
from ...janus_core.weights.checkpoint import WEIGHT_FILES, WEIGHT_SUFFIXES, find, metadata_texts

FOLDER = "janus"  # the key of extra_model_paths.yaml
EMBEDDED = f"{DEFAULT_CHECKPOINT} (embedded, draws shapes)"
DATASETS = "janus_datasets"  # another key of it: folders whose pictures may get captions
TOKENS = ".tokens.safetensors"  # what files of Save Tokens end in
FROM_OUTPUT = " [output]"  # after the names of files in the output folder, as ComfyUI has it
SHARD = re.compile(r"-\d+-of-\d+\.")
Stamps = tuple[tuple[str, int, int], ...]
_Stamp = tuple[int, int]  # modification time in ns, size
COARSEST_CLOCK = 2_000_000_000  # ns; FAT's


def register_folders() -> None:
    """Look for checkpoints in `models/janus` and `models/Janus-Pro`, after any folders of extra_model_paths.yaml."""
    for name in ("janus", "Janus-Pro"):
        folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, name)))
    with contextlib.suppress(OSError):  # a read-only models folder is no obstacle to reading from it
        Path(folder_paths.models_dir, "janus").mkdir(exist_ok=True)


def checkpoint_folders() -> list[Path]:
    """The folders to look for checkpoints in, by priority."""
    return [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]


def new_checkpoint_folder() -> Path:
    """The folder that new checkpoints are written to."""
    folders = checkpoint_folders()
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def checkpoints() -> dict[str, str | Path]:
    """Listed name -> what `janus_core.load` opens: the embedded checkpoint first, then those of the model folders.

    ComfyUI asks for this list many times a run, so the folders are read again only when something in them has changed.
    """
    global _last_listing
    roots = tuple(checkpoint_folders())
    if _last_listing is None or _last_listing.roots != roots or not _last_listing.holds():
        _last_listing = _read(roots)
    return {EMBEDDED: DEFAULT_CHECKPOINT, **_last_listing.found}


@dataclass(frozen=True)
class _Listing:
    """The checkpoints in `roots`, and what this was read from: the stamps of folders, of files, and of links to nothing."""

    roots: tuple[Path, ...]
    found: dict[str, Path]
    stamps: dict[str, _Stamp | None]
    started: int  # ns

    def holds(self) -> bool:
        """Whether reading would find the same. A change shortly before reading may hide a later one of equal time."""
        newest = max((stamp[0] for stamp in self.stamps.values() if stamp), default=0)
        return newest < self.started - COARSEST_CLOCK and all(
            _stamp(path) == stamp for path, stamp in self.stamps.items()
        )


_last_listing: _Listing | None = None


def _stamp(path: str) -> _Stamp | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _read(roots: tuple[Path, ...]) -> _Listing:
    listing = _Listing(roots, {}, {}, time.time_ns())
    for root in roots:
        for folder, files in _folders(str(root), listing.stamps):
            if "config.json" in files:
                paths = _with_config(Path(folder), files)
            else:
                paths = _self_contained(Path(folder), files, listing.stamps)
            for path in paths:
                name = path.relative_to(root).as_posix() if path != root else root.name
                listing.found.setdefault(name, path)
    return listing


def _folders(
    folder: str, stamps: dict[str, _Stamp | None], above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, list[str]]]:
    """A folder and all below it, each with the names of its files. Links are followed, but not to a folder `above`.

    Puts the stamps of the folders, and of links to nothing, into `stamps`.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    stamps[folder] = _stamp(folder)
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # no folder, or none that may be read
        return
    files, below = [], []
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            below += [] if name.startswith(".") else [path]
        elif os.path.exists(path):
            files.append(name)
        else:
            stamps[path] = None
    yield folder, files
    for path in below:
        yield from _folders(path, stamps, above | {real})


def _with_config(folder: Path, files: list[str]) -> list[Path]:
    """The folder itself, if its weight files have a checkpoint's usual names, and each weight file of another name."""
    weights = [name for name in files if name.endswith(WEIGHT_SUFFIXES)]
    single = sorted(name for name in weights if name not in WEIGHT_FILES and not SHARD.search(name))
    whole = len(single) < len(weights) or any(name in files for name in WEIGHT_FILES)
    return [folder] * whole + [folder / name for name in single]


def _self_contained(folder: Path, files: list[str], stamps: dict[str, _Stamp | None]) -> list[Path]:
    """The weight files that carry their own config and tokenizer. Puts the stamps of all weight files into `stamps`."""
    found = []
    for name in files:
        path = folder / name
        if name.endswith(".safetensors") and path.is_file():
            stamp = stamps[str(path)] = _stamp(str(path))
            found += [path] if stamp and _carries_config(path, stamp) else []
    return found


@lru_cache(maxsize=256)
def _carries_config(path: Path, stamp: _Stamp) -> bool:
    try:
        return metadata_texts(path) is not None
    except CheckpointError:
        return False


def downloads() -> dict[str, Published]:
    """Listed name -> each published checkpoint that no model folder has. Uses no network."""
    present = {name.rpartition("/")[2] for name in checkpoints()}
    return {model.label: model for model in DOWNLOADS if model.name not in present}


def checkpoint_path(name: str) -> str | Path:
    """What `janus_core.load` opens for a listed name. A published checkpoint may also go by its repository or by the name
    it was listed under before its download.

    Raises CheckpointError for any other name: names come from workflows, which are untrusted.
    """
    found = checkpoints()
    if name in found:
        return found[name]
    published = name.partition(" (download, ")[0]
    folder_names = {model.name for model in DOWNLOADS if published in (model.name, model.repo)}
    for listed, path in found.items():
        if listed.rpartition("/")[2] in folder_names:
            return path
    raise CheckpointError(
        f"There is no Janus checkpoint {shown(repr(name))} here: put its folder or file into ComfyUI's models/janus and refresh, "
        "or choose another in Load Janus, which can also download the published ones."
    )


def loras() -> list[str]:
    """The names of the LoRA files in ComfyUI's folders."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The file of a listed LoRA. Raises CheckpointError for any other name: names come from untrusted workflows."""
    if name in loras() and (path := folder_paths.get_full_path("loras", name)):
        return Path(path)
    raise CheckpointError(
        f"There is no LoRA {shown(repr(name))} here: put the file into ComfyUI's models/loras and refresh, or choose another."
    )


def token_files() -> dict[str, Path]:
    """Listed name -> each file of tokens in ComfyUI's input and output folders, as far as it really is in them."""
    found = {}
    for root, mark in ((folder_paths.get_input_directory(), ""), (folder_paths.get_output_directory(), FROM_OUTPUT)):
        real = Path(root).resolve()
        for folder, _, files in os.walk(root):
            for path in (Path(folder, name) for name in files if name.endswith(TOKENS)):
                if path.is_file() and path.resolve().is_relative_to(real):
                    found[f"{path.relative_to(root).as_posix()}{mark}"] = path
    return dict(sorted(found.items()))


def token_path(name: str) -> Path:
    """The file of listed tokens. Raises CheckpointError for any other name: names come from untrusted workflows."""
    if path := token_files().get(name):
        return path
    raise CheckpointError(
        f"There is no file of tokens {shown(repr(name))} here: put it into ComfyUI's input folder and refresh, or choose "
        "another."
    )


def new_token_file(prefix: str) -> Path:
    """The next file for a `filename_prefix` in ComfyUI's output folder. Raises InputError if no folder can be there.

    The prefix has no name that leads out of the folder.
    """
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    except OSError as error:
        raise InputError(
            f"Nothing can be saved as {shown(repr(prefix))} ({error}): check the disk, or choose another filename_prefix."
        ) from error
    return Path(folder, f"{name}_{counter:05}_{TOKENS}")


def answer_files(answers: Iterable[str]) -> list[dict[str, str]]:
    """Each answer as a file in ComfyUI's temporary folder, for a node's output: apps show such files, and no plain text.

    Stops at the first one that the disk does not take, as the node shows its answers without the files.
    """
    temporary, entries = folder_paths.get_temp_directory(), []
    with contextlib.suppress(OSError):
        for answer in answers:
            folder, name, counter, _, _ = folder_paths.get_save_image_path("janus_answer", temporary)
            path = Path(folder, f"{name}_{counter:05}_.txt")
            path.write_text(answer, encoding="utf-8")
            entries.append({"filename": path.name, "subfolder": "", "type": "temp"})
    return entries


def picture_folder(name: str) -> Path:
    """The folder of pictures that a workflow names: in ComfyUI's input or output folder, or in those of DATASETS.

    `name` is a path from one of these or a whole one. Raises InputError for any other: names come from untrusted workflows.
    """
    for path in _inside(name, [folder_paths.get_input_directory(), folder_paths.get_output_directory()]):
        with contextlib.suppress(OSError):  # a name that is too long
            if path.is_dir():
                return path
    raise InputError(
        f"There is no folder {shown(repr(name))} in ComfyUI's input or output folder: put the pictures into one there, or name "
        f"their place as {DATASETS} in extra_model_paths.yaml."
    )


def text_folder(name: str) -> Path:
    """The folder to write texts into that a workflow names: a path from ComfyUI's output folder, or a whole one in one of the
    places of `picture_folder`. It may not be there yet. Raises InputError.
    """
    output, given = folder_paths.get_output_directory(), folder_paths.get_input_directory()
    for path in _inside(name, [output, given]):
        if Path(name).is_absolute() or path.is_relative_to(Path(output).resolve()):
            return path
    raise InputError(
        f"The folder {shown(repr(name))} is not in ComfyUI's output or input folder: name one in the output folder, such as "
        f"captions, or name its place as {DATASETS} in extra_model_paths.yaml."
    )


def _inside(name: str, roots: list[str]) -> Iterator[Path]:
    """What `name` means in each of `roots` and DATASETS, as far as it is really in there."""
    if not name.strip():
        return
    allowed = folder_paths.get_folder_paths(DATASETS) if DATASETS in folder_paths.folder_names_and_paths else []
    for root in map(Path, [*roots, *allowed]):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # no possible path, a loop of links
            path = (root / name).resolve()
            if path.is_relative_to(root.resolve()):
                yield path


def file_stamps(files: Iterable[Path]) -> Stamps:
    """Path, size and modification time of each file: another value once one of them is replaced."""
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()])


def checkpoint_stamps(checkpoint: str | Path) -> Stamps:
    """`file_stamps` of all files of a checkpoint. Raises CheckpointError."""
    return file_stamps(find(checkpoint).files)
