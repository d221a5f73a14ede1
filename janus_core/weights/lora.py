"""LoRA files: read one in PEFT's or kohya's spelling, and find which weights of a Janus it changes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ..errors import CheckpointError, first_few
from .checkpoint import CheckpointFiles, open_weights
from .names import tensor_slices, transformers_keys

DOWN = re.compile(r"\.(?:lora_A(?:\.default)?|lora_down)\.weight$")
UP = re.compile(r"\.(?:lora_B(?:\.default)?|lora_up)\.weight$")
ALPHA = re.compile(r"\.alpha$")
ADAPTER_CONFIG = "adapter_config.json"
# Lookup tables are no matrices to be multiplied, and pictures keep the codes they were drawn with.
NOT_LINEAR = re.compile(r"^gen_vision_model\.|embed")


@dataclass(frozen=True)
class Target:
    """The weight a LoRA layer changes; with `rows` (start, length) only that part of it."""

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
    """What a LoRA file may call a linear layer -> the weight it means, for every layer of `model` outside the VQ.

    Known are DeepSeek's and transformers' names, those of the language model trained by itself, all of them as PEFT
    and, with underscores, as kohya writes them.
    """
    targets: dict[str, Target] = {}
    state = model.state_dict()
    for key, place in tensor_slices(state).items():
        weight = state[place.key]
        if weight.ndim != 2 or not key.endswith(".weight") or NOT_LINEAR.search(key):
            continue
        start, size = place.rows or (0, weight.shape[0])
        names = {key: Target(place.key, place.rows, (size, weight.shape[1]))}
        spelled = transformers_keys(key)
        size //= len(spelled)
        for i, name in enumerate(spelled):
            rows = (start + i * size, size) if len(spelled) > 1 else place.rows
            names[name] = Target(place.key, rows, (size, weight.shape[1]))
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
    """Read a LoRA for `model`. Alpha comes from its tensors, else PEFT's adapter_config.json beside it, else is the rank.

    Raises CheckpointError for a damaged file, a layer that `model` has not or has in another size, and for anything
    in the file that is not a plain LoRA.
    """
    weights = open_weights((path,))
    targets = lora_targets(model)
    downs, ups, alphas = ({p.sub("", key): key for key in weights if p.search(key)} for p in (DOWN, UP, ALPHA))
    layers = downs.keys() | ups.keys()
    unknown = [key for names in (downs, ups, alphas) for layer, key in names.items() if layer not in targets]
    unknown += [key for key in weights if not any(p.search(key) for p in (DOWN, UP, ALPHA))]
    if unknown:
        raise CheckpointError(
            f"{path.name} holds {len(unknown)} tensors that this Janus has no place for ({first_few(unknown)}): "
            "it is not a plain LoRA or was made for another model, so choose one made for this Janus."
        )
    lone = sorted(layers - (downs.keys() & ups.keys())) or sorted(alphas.keys() - layers)
    if lone or not layers:
        what = f"only a part of {first_few(lone)}" if lone else "no LoRA layer"
        raise CheckpointError(f"{path.name} holds {what}: it is not a whole LoRA, so fetch it again.")
    again = sorted(layers)
    if len({targets[layer] for layer in again}) < len(again):
        raise CheckpointError(f"{path.name} changes one weight under two names: save it anew under one of them.")

    peft = any(".lora_A." in key for key in downs.values())
    scaling = _peft_scaling(path.parent) if peft else lambda rank: 1.0
    found, wrong = [], []
    for layer in sorted(layers):
        target, up, down = targets[layer], weights[ups[layer]], weights[downs[layer]]
        if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or up.shape[1] < 1:
            wrong.append(f"{layer} is {list(up.shape)} times {list(down.shape)}")
        elif (up.shape[0], down.shape[1]) != target.shape:
            wrong.append(f"{layer} is for {[up.shape[0], down.shape[1]]}, not {list(target.shape)}")
        elif not (
            up.is_floating_point() and down.is_floating_point() and up.isfinite().all() and down.isfinite().all()
        ):
            wrong.append(f"{layer} holds {up.dtype} that are no finite numbers")
        else:
            rank = up.shape[1]
            scale = float(weights[alphas[layer]].sum()) / rank if layer in alphas else scaling(rank)
            if math.isfinite(scale):
                found.append(LoraLayer(target, up, down, scale))
            else:
                wrong.append(f"{layer} has an alpha of {scale}")
    if wrong:
        raise CheckpointError(
            f"{path.name} does not fit this Janus in {len(wrong)} of {len(layers)} layers ({first_few(wrong)}): "
            "it was made for a model of another size, or is damaged."
        )
    return found


def _peft_scaling(folder: Path) -> Callable[[int], float]:
    """Rank -> scale, as the adapter_config.json in a PEFT LoRA's folder says, if there is one."""
    config = CheckpointFiles(folder, ()).read_json(ADAPTER_CONFIG)
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not config:
        return lambda rank: 1.0
    where = folder / ADAPTER_CONFIG
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or not math.isfinite(alpha):
        raise CheckpointError(f"{where} has no usable lora_alpha and r: fetch the file again.")
    if config.get("alpha_pattern") or config.get("rank_pattern"):
        raise CheckpointError(
            f"{where} gives layers an alpha or rank of their own, which is not read: merge the LoRA, or train it with one."
        )

    def scale(found: int) -> float:
        if found != rank:
            raise CheckpointError(
                f"{where} is for rank {rank} where the LoRA beside it has {found}: "
                "give each LoRA a folder of its own, with its own adapter_config.json."
            )
        return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank

    return scale
