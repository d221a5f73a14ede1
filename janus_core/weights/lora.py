"""LoRA files in PEFT's or kohya's spelling: which weights of a Janus they change, and by what."""

import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, first_few, shown
from ..precision import FLOATS
from .checkpoint import CheckpointFiles
from .names import tensor_slices, transformers_keys
from .tensor_files import open_weights

# What a tensor's name ends in -> its part of the layer that the rest of the name means.
PARTS = {
    "down": re.compile(r"\.(?:lora_A(?:\.default)?|lora_down)\.weight$"),
    "up": re.compile(r"\.(?:lora_B(?:\.default)?|lora_up)\.weight$"),
    "alpha": re.compile(r"\.alpha$"),
}
FACTOR_TYPES = {*FLOATS.values(), torch.float64}
ADAPTER_CONFIG = "adapter_config.json"
MAX_ALPHA = (
    1e30  # of its lora_alpha; usual ones are below 1000, and a whole number in JSON may be too large for a float
)
# The VQ's weights decide what codes mean, so they stay; embedding tables are not multiplied.
NOT_LINEAR = re.compile(r"^gen_vision_model\.|embed")


@dataclass(frozen=True)
class Target:
    """The weight that a LoRA layer changes: all of `key`, or only `rows` (start, length). `shape` is [out, in]."""

    key: str
    rows: tuple[int, int] | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class LoraLayer:
    """weight += strength * scale * up @ down, with `up` [out, rank] and `down` [rank, in]."""

    target: Target
    up: Tensor
    down: Tensor
    scale: float


def lora_targets(model: nn.Module) -> dict[str, Target]:
    """What a LoRA file may call a linear layer -> the weight it means, for every linear layer outside the VQ.

    Names are those of DeepSeek, of transformers, and of the language model trained by itself; each as PEFT writes it
    and, with underscores, as kohya does.
    """
    targets: dict[str, Target] = {}
    state = model.state_dict()
    for key, part in tensor_slices(state).items():
        weight = state[part.key]
        if weight.ndim != 2 or not key.endswith(".weight") or NOT_LINEAR.search(key):
            continue
        start, size = part.rows or (0, weight.shape[0])
        names = {key: Target(part.key, part.rows, (size, weight.shape[1]))}
        spellings = transformers_keys(key)
        size //= len(spellings)
        for i, name in enumerate(spellings):
            rows = (start + i * size, size) if len(spellings) > 1 else part.rows
            names[name] = Target(part.key, rows, (size, weight.shape[1]))
        for prefix in ("language_model.", "language_model.model."):
            if key.startswith(prefix):
                names[key.removeprefix(prefix)] = names[key]
        for name, target in names.items():
            layer = name.removesuffix(".weight")
            targets[layer] = targets[f"base_model.model.{layer}"] = target
            for prefix in ("lora_unet_", "lora_te_"):
                targets[prefix + layer.replace(".", "_")] = target
    return targets


def read_lora(path: Path, model: nn.Module) -> list[LoraLayer]:
    """Read a LoRA for `model`.

    Alpha is taken from the file's tensors, else from PEFT's adapter_config.json beside it, else it is the rank.
    Raises CheckpointError for a damaged file, for a layer that `model` lacks or has in another size, and for a file
    with anything but plain LoRA layers.
    """
    weights = open_weights((path,))
    targets = lora_targets(model)
    layers = _layers(path, weights, targets)
    scaling = _peft_scaling(path.parent) if any(".lora_A." in name for name in weights) else lambda rank: 1.0
    found, wrong = [], []
    for layer, parts in sorted(layers.items()):
        target, up, down = targets[layer], parts["up"], parts["down"]
        rank = up.shape[-1] if up.ndim else 0
        if up.ndim != 2 or down.ndim != 2 or rank != down.shape[0] or rank < 1:
            wrong.append(f"{layer} is {list(up.shape)} times {list(down.shape)}")
        elif (up.shape[0], down.shape[1]) != target.shape:
            wrong.append(f"{layer} is for {[up.shape[0], down.shape[1]]}, not {list(target.shape)}")
        elif not {up.dtype, down.dtype} <= FACTOR_TYPES:
            wrong.append(f"{layer} is {up.dtype} times {down.dtype}, not plain floats")
        elif not (up.isfinite().all() and down.isfinite().all()):
            wrong.append(f"{layer} has non-finite or integer values")
        elif not math.isfinite(scale := _scale(parts.get("alpha"), rank, scaling)):
            wrong.append(f"{layer} has an alpha that is no single finite number")
        elif not math.isfinite(_largest_change(up, down, scale)):
            wrong.append(f"{layer} changes its weight by more than float32 holds")
        else:
            found.append(LoraLayer(target, up, down, scale))
    if wrong:
        raise CheckpointError(
            f"{path.name} does not fit this Janus in {len(wrong)} of {len(layers)} layers ({first_few(wrong)}): "
            "it was made for a model of another size, or is damaged."
        )
    return found


@torch.no_grad()
def merge_lora(model: nn.Module, layers: list[LoraLayer], strength: float = 1.0) -> None:
    """Add a LoRA to the weights of a model in place, whose layers are not in 8 bits and are writable (`make_writable`)."""
    for layer in layers:
        weight = model.get_parameter(layer.target.key)
        rows = weight if layer.target.rows is None else weight.narrow(0, *layer.target.rows)
        rows += (strength * layer.scale * layer.up.double() @ layer.down.double()).to(weight)


def _scale(alpha: Tensor | None, rank: int, scaling: Callable[[int], float]) -> float:
    """The layer's scale; NaN for an alpha that is not one real number."""
    if alpha is None:
        return scaling(rank)
    return alpha.item() / rank if alpha.numel() == 1 and not alpha.is_complex() else math.nan


def _largest_change(up: Tensor, down: Tensor, scale: float) -> float:
    """A bound on the numbers of scale * up @ down in float32, without the product; infinite where they may overflow."""
    bound = up.abs().max().double() * down.abs().max().double() * up.shape[1] * scale
    return bound.float().item()


def _layers(path: Path, weights: dict[str, Tensor], targets: dict[str, Target]) -> dict[str, dict[str, Tensor]]:
    """Layer -> its tensors by PARTS: each layer is one of `targets` and whole, and no weight is changed twice."""
    layers: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    unknown = []
    for name, tensor in weights.items():
        part = next((part for part, ending in PARTS.items() if ending.search(name)), None)
        layer = PARTS[part].sub("", name) if part else name
        if part and layer in targets:
            layers[layer][part] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"{path.name} holds {len(unknown)} tensors that this Janus has no place for ({first_few(unknown)}): "
            "it is not a plain LoRA or was made for another model, so choose one made for this Janus."
        )
    incomplete = sorted(layer for layer, parts in layers.items() if not {"up", "down"} <= parts.keys())
    if incomplete or not layers:
        what = f"only a part of {first_few(incomplete)}" if incomplete else "no LoRA layer"
        raise CheckpointError(f"{path.name} holds {what}: it is not a whole LoRA, so fetch it again.")
    if len({targets[layer] for layer in layers}) < len(layers):
        raise CheckpointError(f"{path.name} changes one weight under two names: save it again under one of them.")
    return layers


def _peft_scaling(folder: Path) -> Callable[[int], float]:
    """Rank -> scale, from the adapter_config.json in a PEFT LoRA's folder; 1 where there is none."""
    config = CheckpointFiles(folder, ()).read_json(ADAPTER_CONFIG)
    if not config:
        return lambda rank: 1.0
    where = folder / ADAPTER_CONFIG
    alpha, expected_rank = config.get("lora_alpha"), config.get("r")
    if (
        not isinstance(alpha, int | float) or not isinstance(expected_rank, int) or not abs(alpha) <= MAX_ALPHA
    ):  # nor NaN
        raise CheckpointError(f"{where} has no usable lora_alpha and r: fetch the file again.")
    if config.get("alpha_pattern") or config.get("rank_pattern"):
        raise CheckpointError(
            f"{where} sets alpha or rank per layer, which is not supported: merge the LoRA, or retrain it with a single value."
        )

    def scale(rank: int) -> float:
        if rank != expected_rank:
            raise CheckpointError(
                f"{where} is for rank {shown(expected_rank)} where the LoRA beside it has {rank}: "
                "give each LoRA a folder of its own, with its own adapter_config.json."
            )
        return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank

    return scale
