"""Fill a model from a checkpoint in either dialect, in any dtype: every tensor or an error."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..collector import collector_paused
from ..config import JanusConfig
from ..errors import CheckpointError, first_few
from ..model.janus import JanusModel
from ..model.quantised import QuantisedLinear, dequantise, quantise, quantise_layers
from ..precision import EIGHT_BIT, Precision
from .checkpoint import CheckpointFiles, open_weights
from .names import join_slices, split_fused, tensor_slices, transformers_keys

# In DeepSeek's files, and read by nothing: SigLIP's pooling head, a training statistic, old RoPE buffers.
UNUSED = re.compile(r"vision_model\.vision_tower\.attn_pool\.|quantize\.codebook_used$|rotary_emb\.inv_freq$")


def _scale_of(name: str) -> str:
    return f"{name}_scale"


INITIALISERS = (nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_)


class _WithoutDrawing(TorchFunctionMode):
    """Leaves out layers' first random weights: even for tensors without memory torch imports its compiler for them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func in INITIALISERS else func(*args, **kwargs)


def empty_model(
    config: JanusConfig,
    precision: Precision,
    operations: Any = nn,
    quantised_layer: type[QuantisedLinear] = QuantisedLinear,
) -> JanusModel:
    """The network on the meta device: names, shapes and types, no memory."""
    with _WithoutDrawing():
        model = JanusModel(config, operations, "meta", precision.compute, precision.vq)
        if precision.eight_bit is not None:
            quantise_layers(model, precision.eight_bit, quantised_layer)
    return model


class CheckpointTensors:
    """What fills an empty model: its tensors under DeepSeek's names, in its own types, made one at a time.

    `targets` are their types and shapes, on the meta device. Raises CheckpointError naming the file and the first few tensors that are missing, misshapen or unknown.
    """

    def __init__(self, source: CheckpointFiles, model: nn.Module):
        self.weights = open_weights(source.weights)
        self.targets = split_fused(model.state_dict())
        for key, weight in list(self.targets.items()):
            if weight.dtype == torch.float8_e4m3fn:  # a file has one for each tensor
                self.targets[_scale_of(key)] = torch.empty((), dtype=torch.float32, device="meta")
        self.where = str(source.weights[0] if len(source.weights) == 1 else source.folder)
        spell = transformers_keys if "lm_head.weight" in self.weights else lambda key: [key]
        self.sources = {key: spell(key) for key in self.targets if not key.endswith(".weight_scale")}
        self._check_names()
        self._check_shapes()
        for key, names in self.sources.items():
            if _scale_of(key) in self.targets and self._as_it_is(names, self.targets[key].dtype):
                scale = self.weights[_scale_of(names[0])]
                self.targets[_scale_of(key)] = torch.empty_like(scale, dtype=torch.float32, device="meta")

    def _check_names(self) -> None:
        used = {name for names in self.sources.values() for name in names}
        missing = [name for name in used if name not in self.weights]
        if missing:
            raise CheckpointError(
                f"{self.where} lacks {len(missing)} of the tensors its config asks for ({first_few(sorted(missing))}): "
                "it is incomplete or belongs to another model."
            )
        used |= {_scale_of(name) for name in used if self._is_scaled(name)}
        unknown = [name for name in self.weights if name not in used and not UNUSED.search(name)]
        if unknown:
            raise CheckpointError(
                f"{self.where} holds {len(unknown)} tensors that no Janus of its config has ({first_few(unknown)}): "
                "its config.json belongs to another model."
            )

    def _check_shapes(self) -> None:
        wrong = []
        for key, names in self.sources.items():
            parts = [self.weights[name] for name in names]
            rows = sum(part.shape[0] for part in parts if part.ndim)
            shape = [rows, *parts[0].shape[1:]] if parts[0].ndim else []
            if key.endswith(".pos_embed") and len(shape) == 2:
                shape = [1, *shape]
            scaled = [name for name in names if self._is_scaled(name)]
            if not all(part.is_floating_point() or name in scaled for name, part in zip(names, parts, strict=True)):
                wrong.append(f"{names[0]} holds {parts[0].dtype}, not weights")
            elif shape != list(self.targets[key].shape) or len({part.shape[1:] for part in parts}) > 1:
                wrong.append(f"{names[0]} is {shape}, not {list(self.targets[key].shape)}")
            for name, part in zip(names, parts, strict=True):
                if name in scaled and list(self.weights[_scale_of(name)].shape) not in ([], [part.shape[0], 1]):
                    wrong.append(
                        f"{_scale_of(name)} is {list(self.weights[_scale_of(name)].shape)}, no scale of its weight"
                    )
        if wrong:
            raise CheckpointError(
                f"{self.where} has {len(wrong)} tensors of another shape than its config.json asks for "
                f"({first_few(wrong)}): config and weights belong to different models."
            )

    def _is_scaled(self, name: str) -> bool:
        return _scale_of(name) in self.weights and self.weights[name].dtype in EIGHT_BIT.values()

    def _as_it_is(self, names: list[str], kind: torch.dtype) -> bool:
        """Whether the file has a weight in this kind of 8 bits, with one scale or one for each row."""
        return len(names) == 1 and self._is_scaled(names[0]) and self.weights[names[0]].dtype == kind

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Every key of `targets` with its tensor, on the CPU."""
        for key, names in self.sources.items():
            target = self.targets[key]
            if _scale_of(key) in self.targets:
                weight, scale = self._quantised(names, target.dtype)
                yield key, weight
                yield _scale_of(key), scale
            else:
                yield key, self._whole(names).reshape(target.shape).to(target.dtype)

    def _whole(self, names: list[str]) -> Tensor:
        """One weight of floats, put together from its parts."""
        parts = [
            dequantise(self.weights[name], self.weights[_scale_of(name)])
            if self._is_scaled(name)
            else self.weights[name]
            for name in names
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _quantised(self, names: list[str], kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """One weight in 8 bits and its scale; as the file has them, where it has this kind."""
        if self._as_it_is(names, kind):
            return self.weights[names[0]], self.weights[_scale_of(names[0])].float()
        return quantise(self._whole(names), kind)


@collector_paused()  # it would go through all that is imported, and take as long as the layers
def load_model(
    source: CheckpointFiles,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | Precision = torch.float32,
    operations: Any = nn,
    quantised_layer: type[QuantisedLinear] = QuantisedLinear,
    config: JanusConfig | None = None,
) -> JanusModel:
    """Build the model without memory and give every parameter its tensor, cast one by one. `config` saves reading it.

    Peak memory is about one copy of the weights in `dtype`; tensors stored in `dtype` stay memory-mapped on the CPU,
    but for those of packed layers that do not lie side by side in their file, which are copied together.
    Raises CheckpointError when the model would not be whole.
    """
    try:
        model = empty_model(config or source.config(), Precision.of(dtype), operations, quantised_layer)
    except (RuntimeError, TypeError) as error:  # sizes past memory's, sizes past 64 bits
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{source.describe('config.json')} describes a model that cannot be built ({reason}): fetch the file again."
        ) from error
    targets = model.state_dict()
    where, state = tensor_slices(targets), {}
    parts: defaultdict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in CheckpointTensors(source, model):
        place = where[name]
        target = targets[place.key]
        parts[place.key].append(tensor.expand(place.of(target).shape))
        if place.rows is None or sum(place.rows) == len(target):
            state[place.key] = join_slices(parts.pop(place.key), device)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()
