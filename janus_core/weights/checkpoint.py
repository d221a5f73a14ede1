"""Find a Janus checkpoint: its weight files, and its config and tokenizer, in a folder or in one file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import JanusConfig
from ..errors import CheckpointError, first_few, shown
from ..precision import NAMES
from .tensor_files import read_header

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
# Formats of other programs, and what they hold.
FOREIGN = {
    ".gguf": "a GGUF file, for llama.cpp",
    ".onnx": "an ONNX file, for ONNX Runtime",
    ".npz": "a file of NumPy arrays, as MLX has them",
}
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
            if not path.is_file():
                return None
            _check_length(path.stat().st_size, self.folder, name)
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise CheckpointError(f"{path} is not readable text ({shown(error)}): fetch the file again.") from error

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in the text file `name`, {} when there is none. Raises CheckpointError when it is not JSON."""
        text = self.read(name)
        try:
            value = {} if text is None else json.loads(text)
        except (RecursionError, ValueError) as error:
            raise CheckpointError(
                f"{self.describe(name)} is not readable JSON ({shown(error)}): fetch the file again."
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
    metadata = read_header(path).metadata
    if "config.json" not in metadata:
        return None
    texts = {name: metadata[name] for name in (*TEXT_FILES, "name", "dtype") if name in metadata}
    for name, text in texts.items():
        _check_length(len(text), path, name)
    return texts


def _check_length(length: int, path: Path, name: str) -> None:
    if length > MAX_TEXT:
        raise CheckpointError(
            f"{path} carries a {name} of {length / 1e6:.0f} MB, more than the limit of {MAX_TEXT / 1e6:.0f} MB: the file is damaged or not to "
            "be trusted, so fetch it from its own page."
        )


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
        _refuse_foreign(path)
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
    loose = sorted(p for p in path.iterdir() if p.suffix.lower() in WEIGHT_SUFFIXES and p.is_file())
    if len(loose) != 1:
        if not loose:
            _refuse_foreign(*sorted(path.iterdir()), *sorted(path.glob("onnx/*")))
        found = f"{len(loose)} weight files without an index" if loose else "no weight file"
        raise CheckpointError(
            f"{path} contains {found}: a Janus folder has model.safetensors or pytorch_model.bin, "
            "or shards with their .index.json."
        )
    return loose[0]


def _refuse_foreign(*paths: Path) -> None:
    for path in paths:
        if what := FOREIGN.get(path.suffix.lower()):
            raise CheckpointError(
                f"{path} is {what}, which this pack cannot open: fetch the model as its authors published it, with "
                ".safetensors or .bin files; dtype int8 makes it small."
            )


def _shards(index: Path) -> tuple[Path, ...]:
    names = CheckpointFiles(index.parent, ()).read_json(index.name).get("weight_map")
    if not isinstance(names, dict) or not all(map(_is_file_name, names.values())):
        raise CheckpointError(f"{index} has no usable weight_map: fetch the index again.")
    shards = tuple(index.parent / name for name in sorted(set(names.values())))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {first_few(missing)}, which {index.name} lists: fetch the missing shards."
        )
    return shards


def _is_file_name(name: object) -> bool:
    """Whether it can name a shard beside its index. File systems take up to 255 bytes."""
    return isinstance(name, str) and Path(name).name == name and name.isprintable() and len(name.encode()) <= 255
