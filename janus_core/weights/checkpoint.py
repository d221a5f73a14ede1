"""Find a Janus checkpoint and open it: its weight files, and its config and tokenizer, in a folder or in one file."""

import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import JanusConfig
from ..errors import CheckpointError
from ..precision import NAMES

ASSETS = Path(__file__).parents[1] / "assets"
WEIGHT_SUFFIXES = (".safetensors", ".bin")
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# The text files of a checkpoint. A self-contained weight file has them in its metadata, under the same names.
TEXT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)
MAX_TEXT = 32_000_000  # characters; the largest tokenizer.json has under 8 million


@dataclass(frozen=True)
class CheckpointFiles:
    """A checkpoint's files: `weights`, and config and tokenizer in `folder`.

    For a self-contained file `texts` is its metadata, which takes the place of the folder's text files.
    """

    folder: Path
    weights: tuple[Path, ...]
    texts: Mapping[str, str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the model may be called: its folder's name, and its repository's in a Hugging Face cache."""
        if self.texts is not None:
            return (self.texts.get("name", ""),)
        folder = self.folder.absolute()
        snapshots, repository = folder.parent, folder.parent.parent
        in_hub_cache = snapshots.name == "snapshots" and repository.name.startswith("models--")
        return (folder.name, repository.name) if in_hub_cache else (folder.name,)

    @property
    def is_1_3b(self) -> bool:
        """Whether this is Janus-1.3B, which only its name shows."""
        return any("1.3b" in name.lower() for name in self.names)

    @property
    def dtype(self) -> str | None:
        """The dtype a self-contained file was written in, one of precision.NAMES; None where it is not known."""
        name = self.texts.get("dtype") if self.texts is not None else None
        return name if name in NAMES else None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that are read."""
        if self.texts is not None:
            return self.weights
        return (*(path for name in TEXT_FILES if (path := self.folder / name).exists()), *self.weights)

    def describe(self, name: str) -> str:
        """Where the text file `name` is, for an error message."""
        return f"{self.weights[0]}'s own {name}" if self.texts is not None else str(self.folder / name)

    def read(self, name: str) -> str | None:
        """The text file `name`, None when there is none. Raises CheckpointError when it is not text."""
        if self.texts is not None:
            return self.texts.get(name)
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8") if path.is_file() else None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not readable text ({error}): fetch the file again.") from error

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in the text file `name`, {} when there is none. Raises CheckpointError when it is not JSON."""
        text = self.read(name)
        try:
            value = {} if text is None else json.loads(text)
        except (RecursionError, ValueError) as error:
            raise CheckpointError(
                f"{self.describe(name)} is not readable JSON ({error}): fetch the file again."
            ) from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.describe(name)} is not a JSON object: fetch the file again.")
        return value

    def config(self) -> JanusConfig:
        """The model's shape. Raises CheckpointError when `config.json` is missing or not a Janus one."""
        if self.read("config.json") is None:
            raise CheckpointError(f"{self.folder} has no config.json: put the model's config.json beside its weights.")
        return JanusConfig.from_dict(self.read_json("config.json"), source=self.describe("config.json"))


def metadata_texts(path: Path) -> dict[str, str] | None:
    """Config, tokenizer and other texts in a self-contained safetensors file's metadata; None for other weight files.

    Only the header is read. Raises CheckpointError when the file is damaged, or a text is longer than MAX_TEXT.
    """
    if path.suffix.lower() != ".safetensors":
        return None
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if "config.json" not in metadata:
        return None
    texts = {name: metadata[name] for name in (*TEXT_FILES, "name", "dtype") if name in metadata}
    for name, text in texts.items():
        if len(text) > MAX_TEXT:
            raise CheckpointError(
                f"{path} carries a {name} of {len(text) / 1e6:.0f} MB, more than the limit of {MAX_TEXT / 1e6:.0f} MB: the "
                "file is damaged or not to be trusted, so fetch it from its own page."
            )
    return texts


def find(checkpoint: str | Path) -> CheckpointFiles:
    """Locate a checkpoint: an embedded one's name, a folder, or one weight file, self-contained or beside its config.

    Raises CheckpointError when there is none, or a shard that the index lists is missing.
    """
    path = Path(checkpoint)
    embedded = ASSETS / path.name
    if not path.exists() and str(checkpoint) == path.name and embedded.is_dir():
        path = embedded
    if path.is_file() and path.suffix.lower() in WEIGHT_SUFFIXES:
        return CheckpointFiles(path.parent, (path,), metadata_texts(path))
    if path.is_file():
        raise CheckpointError(
            f"{path} is not a weight file that Janus reads: give a .safetensors or .bin file, or its folder."
        )
    if not path.is_dir():
        raise CheckpointError(
            f"There is no Janus checkpoint at {path}: give a folder with config.json and weights, "
            "or a .safetensors or .bin file, self-contained or beside its config.json."
        )
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            weights = _shards(path / name) if name.endswith(".json") else (path / name,)
            break
    else:
        weights = (_only_weight_file(path),)
    alone = len(weights) == 1 and not (path / "config.json").is_file()
    return CheckpointFiles(path, weights, metadata_texts(weights[0]) if alone else None)


def _only_weight_file(path: Path) -> Path:
    loose = sorted(p for p in path.iterdir() if p.suffix.lower() in WEIGHT_SUFFIXES)
    if len(loose) != 1:
        found = f"{len(loose)} weight files without an index" if loose else "no weight file"
        raise CheckpointError(
            f"{path} contains {found}: a Janus folder has model.safetensors or pytorch_model.bin, "
            "or shards with their .index.json."
        )
    return loose[0]


def _shards(index: Path) -> tuple[Path, ...]:
    names = CheckpointFiles(index.parent, ()).read_json(index.name).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
        raise CheckpointError(f"{index} has no usable weight_map: fetch the index again.")
    shards = tuple(index.parent / name for name in sorted(set(names.values())))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {', '.join(missing)}, which {index.name} lists: fetch the missing shards."
        )
    return shards


def open_weights(files: tuple[Path, ...]) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, memory-mapped, so each is read from disk when it is used.

    Raises CheckpointError for a file that is damaged, or a pickle that contains more than tensors.
    """
    weights: dict[str, Tensor] = {}
    for path in files:
        weights |= _open_safetensors(path) if path.suffix.lower() == ".safetensors" else _open_pickle(path)
    return weights


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """A safetensors file whose header has been checked against its length."""
    try:
        yield safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): it was cut short or damaged, so fetch it again."
        ) from error


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    """Views of one mapping of the whole file, so that tensors that follow one another in it can be joined by a view."""
    # 1. safetensors checks the header: names, types, shapes, and offsets that fit the file.
    with _opened(path) as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    # 2. It gives each tensor a storage of its own, so offsets are read again: 8 bytes of length, then JSON.
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
    # 3. A tensor at an offset that its item size does not divide cannot be a view, and stays as safetensors gave it.
    whole = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
    for key, tensor in weights.items():
        start, end = (8 + size + offset for offset in entries[key]["data_offsets"])
        if start % tensor.itemsize == 0:
            weights[key] = whole[start:end].view(tensor.dtype).view(tensor.shape)
    return weights


def _open_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused: it is damaged or contains more than tensors, and such a pickle can run code "
            "on your machine; fetch it from the model's own page."
        ) from error
    except Exception as error:  # a damaged pickle raises anything: KeyError, struct.error, AttributeError, ...
        raise CheckpointError(f"{path} is not a whole PyTorch file: it was cut short, so fetch it again.") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} does not hold a plain table of tensors: it is not a Janus checkpoint.")
    return state
