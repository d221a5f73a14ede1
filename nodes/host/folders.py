"""ComfyUI's model folders: which checkpoints and LoRAs are in them, and which file a name in a workflow means."""

import contextlib
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import folder_paths

from ...janus_core import DEFAULT_CHECKPOINT, CheckpointError
from ...janus_core.published import PUBLISHED, Published
from ...janus_core.weights.checkpoint import WEIGHT_FILES, WEIGHT_SUFFIXES, find, metadata_texts

FOLDER = "janus"  # the key of extra_model_paths.yaml
EMBEDDED = f"{DEFAULT_CHECKPOINT} (embedded, draws shapes)"
SHARD = re.compile(r"-\d+-of-\d+\.")
Stamps = tuple[tuple[str, int, int], ...]


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
    """Listed name -> what `janus_core.load` opens: the embedded checkpoint first, then those of the model folders."""
    found: dict[str, str | Path] = {EMBEDDED: DEFAULT_CHECKPOINT}
    for root in checkpoint_folders():
        for folder, subfolders, files in os.walk(root, followlinks=True):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            checkpoints_in = _with_config if "config.json" in files else _self_contained
            for path in checkpoints_in(Path(folder), files):
                name = path.relative_to(root).as_posix() if path != root else root.name
                found.setdefault(name, path)
    return found


def _with_config(folder: Path, files: list[str]) -> list[Path]:
    """The folder itself, if its weight files have a checkpoint's usual names, and each weight file of another name."""
    weights = [name for name in files if name.endswith(WEIGHT_SUFFIXES)]
    single = sorted(name for name in weights if name not in WEIGHT_FILES and not SHARD.search(name))
    whole = len(single) < len(weights) or any(name in files for name in WEIGHT_FILES)
    return [folder] * whole + [folder / name for name in single]


def _self_contained(folder: Path, files: list[str]) -> list[Path]:
    """The weight files that carry their own config and tokenizer."""
    paths = [folder / name for name in sorted(files) if name.endswith(".safetensors")]
    return [path for path in paths if path.is_file() and _carries_config(path, path.stat().st_mtime_ns)]


@lru_cache(maxsize=256)
def _carries_config(path: Path, modified: int) -> bool:
    try:
        return metadata_texts(path) is not None
    except CheckpointError:
        return False


def downloads() -> dict[str, Published]:
    """Listed name -> each published checkpoint that no model folder has. Uses no network."""
    present = {name.rpartition("/")[2] for name in checkpoints()}
    return {
        f"{model.name} (download, {model.size / 1e9:.1f} GB)": model for model in PUBLISHED if model.name not in present
    }


def checkpoint_path(name: str) -> str | Path:
    """What `janus_core.load` opens for a listed name. A published checkpoint may also go by its repository or by the name
    it was listed under before its download.

    Raises CheckpointError for any other name: names come from workflows, which are untrusted.
    """
    found = checkpoints()
    if name in found:
        return found[name]
    published = name.partition(" (download, ")[0]
    folder_names = {model.name for model in PUBLISHED if published in (model.name, model.repo)}
    for listed, path in found.items():
        if listed.rpartition("/")[2] in folder_names:
            return path
    raise CheckpointError(
        f"There is no Janus checkpoint {name!r} here: put its folder or file into ComfyUI's models/janus and refresh, "
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
        f"There is no LoRA {name!r} here: put the file into ComfyUI's models/loras and refresh, or choose another."
    )


def file_stamps(files: Iterable[Path]) -> Stamps:
    """Path, size and modification time of each file: another value once one of them is replaced."""
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()])


def checkpoint_stamps(checkpoint: str | Path) -> Stamps:
    """`file_stamps` of all files of a checkpoint. Raises CheckpointError."""
    return file_stamps(find(checkpoint).files)
