"""Find a Janus checkpoint, read it in either dialect, and fill a model with it: every tensor or an error."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .config import JanusConfig
from .errors import CheckpointError
from .model.janus import JanusModel

ASSETS = Path(__file__).parent / "assets"
WEIGHT_SUFFIXES = (".safetensors", ".bin")
WEIGHT_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# In DeepSeek's files, and read by nothing: SigLIP's pooling head, a training statistic, old RoPE buffers.
UNUSED = re.compile(r"vision_model\.vision_tower\.attn_pool\.|quantize\.codebook_used$|rotary_emb\.inv_freq$")

# Our (DeepSeek's) spelling -> transformers' spelling, applied in order.
VIT = "model.vision_model.encoder.layers"
TO_TRANSFORMERS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^vision_model\.vision_tower\.", "model.vision_model."),
        (r"^model\.vision_model\.pos_embed$", "model.vision_model.embeddings.position_embedding.weight"),
        (r"^model\.vision_model\.patch_embed\.proj\.", "model.vision_model.embeddings.patch_embedding."),
        (r"^model\.vision_model\.norm\.", "model.vision_model.post_layernorm."),
        (r"^model\.vision_model\.blocks\.(\d+)\.norm(\d)\.", rf"{VIT}.\1.layer_norm\2."),
        (r"^model\.vision_model\.blocks\.(\d+)\.attn\.proj\.", rf"{VIT}.\1.self_attn.projection_layer."),
        (r"^model\.vision_model\.blocks\.(\d+)\.attn\.", rf"{VIT}.\1.self_attn."),
        (r"^model\.vision_model\.blocks\.", f"{VIT}."),
        (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
        (r"^gen_head\.", "model.generation_head."),
        (r"^gen_embed\.", "model.generation_embeddings."),
        (r"^gen_aligner\.", "model.generation_aligner."),
        (r"^aligner\.", "model.aligner."),
        (r"^(model\.(?:generation_)?aligner)\.layers\.0\.", r"\1.fc1."),
        (r"^gen_vision_model\.", "model.vqmodel."),
        (r"^model\.vqmodel\.encoder\.conv_blocks\.", "model.vqmodel.encoder.down."),
        (r"^model\.vqmodel\.decoder\.conv_blocks\.", "model.vqmodel.decoder.up."),
        (r"^(model\.vqmodel\.\w+\.(?:down|up)\.\d+)\.res\.", r"\1.block."),
        (r"\.mid\.0\.", ".mid.block_1."),
        (r"\.mid\.1\.", ".mid.attn_1."),
        (r"\.mid\.2\.", ".mid.block_2."),
    )
]
ALIGNER_LAYER = re.compile(r"^(model\.(?:generation_)?aligner)\.layers\.(\d+)\.")


def transformers_keys(key: str) -> list[str]:
    """The transformers spelling of one of our keys: one key, or three to be stacked along dim 0 (SigLIP's q, k, v)."""
    for pattern, replacement in TO_TRANSFORMERS:
        key = pattern.sub(replacement, key)
    key = ALIGNER_LAYER.sub(lambda m: f"{m[1]}.hidden_layers.{int(m[2]) // 2 - 1}.", key)
    if ".self_attn.qkv." in key:
        return [key.replace(".qkv.", f".{part}_proj.") for part in "qkv"]
    return [key]


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies: the folder of its config and tokenizer, and its weight files."""

    folder: Path
    weights: tuple[Path, ...]

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder, {} when there is no such file. Raises CheckpointError when it is not JSON."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not readable JSON ({error}): fetch the file again.") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{path} does not hold a JSON object: fetch the file again.")
        return value

    def config(self) -> JanusConfig:
        """The model's shape. Raises CheckpointError when `config.json` is missing or not a Janus one."""
        if not (self.folder / "config.json").is_file():
            raise CheckpointError(f"{self.folder} has no config.json: put the model's config.json beside its weights.")
        return JanusConfig.from_dict(self.read_json("config.json"), source=str(self.folder / "config.json"))


def find(checkpoint: str | Path) -> Source:
    """Locate a checkpoint: an embedded one's name, a folder, or one weight file with its config beside it.

    Raises CheckpointError when nothing is there, or a shard the index names is missing.
    """
    path = Path(checkpoint)
    embedded = ASSETS / path.name
    if not path.exists() and str(checkpoint) == path.name and embedded.is_dir():
        path = embedded
    if path.is_file() and path.suffix.lower() in WEIGHT_SUFFIXES:
        return Source(path.parent, (path,))
    if path.is_file():
        raise CheckpointError(
            f"{path} is not a weight file that Janus reads: give a .safetensors or .bin file, or its folder."
        )
    if not path.is_dir():
        raise CheckpointError(
            f"There is no Janus checkpoint at {path}: give a folder with config.json and weights, "
            "or a .safetensors or .bin file beside its config.json."
        )
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return Source(path, _shards(path / name) if name.endswith(".json") else (path / name,))
    loose = sorted(p for p in path.iterdir() if p.suffix.lower() in WEIGHT_SUFFIXES)
    if len(loose) != 1:
        found = f"{len(loose)} weight files without an index" if loose else "no weight file"
        raise CheckpointError(
            f"{path} holds {found}: a Janus folder has model.safetensors or pytorch_model.bin, "
            "or shards with their .index.json."
        )
    return Source(path, (loose[0],))


def _shards(index: Path) -> tuple[Path, ...]:
    names = Source(index.parent, ()).read_json(index.name).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
        raise CheckpointError(f"{index} has no usable weight_map: fetch the index again.")
    shards = tuple(index.parent / name for name in sorted(set(names.values())))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {', '.join(missing)}, which {index.name} lists: fetch the missing shards."
        )
    return shards


class Weights(Mapping[str, Tensor]):
    """All tensors of a checkpoint by name, each read from the memory-mapped file when asked for."""

    def __init__(self, files: tuple[Path, ...]):
        self._files: dict[str, Path] = {}
        self._readers: dict[str, Callable[[], Tensor]] = {}
        for path in files:
            reader = _open_safetensors(path) if path.suffix.lower() == ".safetensors" else _open_pickle(path)
            self._readers |= reader
            self._files |= dict.fromkeys(reader, path)

    def __getitem__(self, key: str) -> Tensor:
        return self._readers[key]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def file_of(self, key: str) -> Path:
        return self._files[key]


def _open_safetensors(path: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        handle = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): it was cut short or damaged, so fetch it again."
        ) from error
    return {key: partial(handle.get_tensor, key) for key in handle.keys()}  # noqa: SIM118 (not a dict)


def _open_pickle(path: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} was refused: it is damaged or holds more than tensors, and a pickle that holds more can run code "
            "on your machine; fetch it from the model's own page."
        ) from error
    except Exception as error:  # a damaged pickle raises anything: KeyError, struct.error, AttributeError, ...
        raise CheckpointError(f"{path} is not a whole PyTorch file: it was cut short, so fetch it again.") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} does not hold a plain table of tensors: it is not a Janus checkpoint.")
    return {key: partial(state.__getitem__, key) for key in state}


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def load_model(
    source: Source,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    vq_dtype: torch.dtype | None = None,
    operations: Any = nn,
) -> JanusModel:
    """Build the model without memory and give every parameter its tensor, cast one by one.

    Peak memory is about one copy of the weights in `dtype`; tensors stored in `dtype` stay memory-mapped on the CPU.
    Raises CheckpointError naming the file and the first few tensors that are missing, misshapen or unknown.
    """
    try:
        model = JanusModel(source.config(), operations, device="meta", dtype=dtype, vq_dtype=vq_dtype)
    except RuntimeError as error:
        raise CheckpointError(
            f"{source.folder / 'config.json'} describes a model that cannot be built ({error}): fetch the file again."
        ) from error
    weights = Weights(source.weights)
    needed = model.state_dict()
    where = str(source.weights[0] if len(source.weights) == 1 else source.folder)
    spell = transformers_keys if "lm_head.weight" in weights else lambda key: [key]

    sources = {key: spell(key) for key in needed}
    missing = [name for names in sources.values() for name in names if name not in weights]
    if missing:
        raise CheckpointError(
            f"{where} lacks {len(missing)} of the tensors its config asks for ({_first(missing)}): "
            "it is incomplete or belongs to another model."
        )
    used = {name for names in sources.values() for name in names}
    unknown = [name for name in weights if name not in used and not UNUSED.search(name)]
    if unknown:
        raise CheckpointError(
            f"{where} holds {len(unknown)} tensors that no Janus of its config has ({_first(unknown)}): "
            "its config.json belongs to another model."
        )

    state = {}
    wrong = []
    for key, target in needed.items():
        parts = [weights[name] for name in sources[key]]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if key.endswith(".pos_embed") and tensor.ndim == 2:
            tensor = tensor[None]
        if not tensor.is_floating_point():
            wrong.append(f"{sources[key][0]} holds {tensor.dtype}, not weights")
        elif tensor.shape != target.shape:
            wrong.append(f"{sources[key][0]} is {list(tensor.shape)}, not {list(target.shape)}")
        else:
            state[key] = tensor.to(device=device, dtype=target.dtype)
    if wrong:
        raise CheckpointError(
            f"{where} has {len(wrong)} tensors of another shape than its config.json asks for ({_first(wrong)}): "
            "config and weights belong to different models."
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()
