"""LoRA adapters on a frozen model: what `train lora` trains, and the PEFT files that it writes."""

import json
import math
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..errors import InputError, first_few
from ..model.janus import JanusModel
from ..weights.lora import ADAPTER_CONFIG, NOT_LINEAR
from ..weights.names import tensor_slices
from ..weights.saving import save_tensors
from ..weights.writing import replacing

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # the transformer's


class Adapter(nn.Module):
    """up @ down, which is added to a linear layer `name` (DeepSeek's), whose output is `rows` of a fused layer's.

    The factors are float32, `down` [rank, in] and `up` [out, rank], which starts at 0; so does what is added.
    """

    def __init__(self, name: str, width_in: int, rows: tuple[int, int], rank: int, generator: torch.Generator):
        super().__init__()
        self.name, (self.start, width_out) = name, rows
        bound = 1 / math.sqrt(width_in)
        self.down = nn.Parameter(torch.empty(rank, width_in).uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(width_out, rank))

    def forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook of the layer."""
        x = inputs[0]
        added = F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))
        return output + F.pad(added, (self.start, output.shape[-1] - self.start - len(self.up)))


def add_adapters(model: JanusModel, *, rank: int, targets: Sequence[str] = TARGETS, seed: int = 0) -> list[Adapter]:
    """Put adapters on all linear layers of a model whose name ends with one of `targets`, as its part `lora`.

    Raises InputError for a rank below 1 and for a target that no layer has.
    """
    if rank < 1:
        raise InputError(f"The rank is {rank}: give at least 1, usually 4 to 64.")
    generator = torch.Generator().manual_seed(seed)
    state, adapters, missing = model.state_dict(), [], set(targets)
    for key, part in tensor_slices(state).items():
        name, weight = key.removesuffix(".weight"), state[part.key]
        fitting = {target for target in targets if f".{name}".endswith(f".{target}")}
        if fitting and weight.ndim == 2 and name != key and not NOT_LINEAR.search(key):
            missing -= fitting
            adapter = Adapter(name, weight.shape[1], part.rows or (0, len(weight)), rank, generator)
            adapters.append(adapter.to(weight.device))
            model.get_submodule(part.key.removesuffix(".weight")).register_forward_hook(adapter)
    if missing:
        raise InputError(
            f"No linear layer of this model is named {first_few(sorted(missing))}: name the last parts of layers, such as "
            f"{', '.join(TARGETS)}."
        )
    model.lora = nn.ModuleList(adapters)
    return adapters


def recompute_layers(model: JanusModel) -> None:
    """Keep only the input of each of the transformer's layers for the backward pass, and compute the rest again there.

    So 8-bit weights are cast for one layer at a time.
    """
    for layer in model.language_model.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def adapter_config(*, rank: int, targets: Sequence[str], checkpoint: str) -> dict[str, Any]:
    """PEFT's `adapter_config.json`. Alpha is the rank, so that the file alone means the same."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": checkpoint,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(targets),
    }


def save_adapters(adapters: Iterable[Adapter], config: dict[str, Any], path: Path) -> None:
    """Write adapters as a LoRA file with PEFT's names, and `config` beside it. Raises InputError if it cannot be written."""
    tensors = {}
    for adapter in adapters:
        tensors[f"base_model.model.{adapter.name}.lora_A.weight"] = adapter.down.detach().cpu()
        tensors[f"base_model.model.{adapter.name}.lora_B.weight"] = adapter.up.detach().cpu()
    save_tensors(tensors, path)
    with replacing(path.parent / ADAPTER_CONFIG) as part:
        part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
