"""Fill a model from a checkpoint of either layout, in any dtype: every tensor or an error."""

import re
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..collector import collector_paused
from ..config import JanusConfig
from ..errors import CheckpointError, first_few
from ..model.janus import JanusModel
from ..model.quantised import DEFAULT_LAYERS, Layers, dequantise, quantise, quantise_layers
from ..precision import EIGHT_BIT, Precision
from .checkpoint import CheckpointFiles
from .names import fuse, split_fused, tensor_slices, transformers_keys
from .tensor_files import open_weights

# Tensors in DeepSeek's files that inference does not need: SigLIP's pooling head, a training statistic, RoPE buffers.
IGNORED = re.compile(r"vision_model\.vision_tower\.attn_pool\.|quantize\.codebook_used$|rotary_emb\.inv_freq$")


def _scale_of(name: str) -> str:
    return f"{name}_scale"


def empty_model(config: JanusConfig, precision: Precision, layers: Layers = DEFAULT_LAYERS) -> JanusModel:
    """The network on the meta device: names, shapes and types, no memory."""
    model = JanusModel(config, layers.operations, device="meta", dtype=precision.compute, vq_dtype=precision.vq)
    if precision.eight_bit is not None:
        quantise_layers(model, precision.eight_bit, layers.quantised)
    return model


class TensorReader:
    """The tensors that fill an empty model, in its types and under DeepSeek's names, read and cast one at a time.

    `expected` has their types and shapes, as tensors on the meta device.
    Raises CheckpointError with the first few names when tensors are missing, unknown, or of another shape.
    """

    def __init__(self, files: CheckpointFiles, model: nn.Module):
        self.stored = open_weights(files.weights)
        self.expected = split_fused(model.state_dict())
        for name, weight in list(self.expected.items()):
            if weight.dtype == torch.float8_e4m3fn:  # a file has one scale for the tensor, the model one for each row
                self.expected[_scale_of(name)] = torch.empty((), dtype=torch.float32, device="meta")
        self.source = str(files.weights[0] if len(files.weights) == 1 else files.folder)
        spell = transformers_keys if "lm_head.weight" in self.stored else lambda name: [name]
        # DeepSeek's name -> the file's tensors that make it up, stacked along dim 0.
        self.parts = {name: spell(name) for name in self.expected if not name.endswith(".weight_scale")}
        self._check_names()
        self._check_shapes()
        for name, parts in self.parts.items():
            if _scale_of(name) in self.expected and self._is_stored_as(parts, self.expected[name].dtype):
                self.expected[_scale_of(name)] = self.stored[_scale_of(parts[0])].to("meta", torch.float32)

    def _check_names(self) -> None:
        known = {part for parts in self.parts.values() for part in parts}
        missing = [part for part in known if part not in self.stored]
        if missing:
            raise CheckpointError(
                f"{self.source} lacks {len(missing)} of the tensors its config asks for ({first_few(sorted(missing))}): "
                "it is incomplete or belongs to another model."
            )
        known |= {_scale_of(part) for part in known if self._is_scaled(part)}
        unknown = [name for name in self.stored if name not in known and not IGNORED.search(name)]
        if unknown:
            raise CheckpointError(
                f"{self.source} holds {len(unknown)} tensors that its config does not have ({first_few(unknown)}): "
                "its config.json belongs to another model."
            )

    def _check_shapes(self) -> None:
        wrong = []
        for name, parts in self.parts.items():
            tensors = [self.stored[part] for part in parts]
            first, expected = tensors[0], list(self.expected[name].shape)
            shape = [sum(len(tensor) for tensor in tensors if tensor.ndim), *first.shape[1:]] if first.ndim else []
            if name.endswith(".pos_embed") and len(shape) == 2:
                shape = [1, *shape]
            if not all(self.stored[part].is_floating_point() or self._is_scaled(part) for part in parts):
                wrong.append(f"{parts[0]} has {first.dtype}, not weights")
            elif shape != expected or len({tensor.shape[1:] for tensor in tensors}) > 1:
                wrong.append(f"{parts[0]} is {shape}, not {expected}")
            for part in filter(self._is_scaled, parts):
                scale = list(self.stored[_scale_of(part)].shape)
                if (
                    scale not in ([], [self.stored[part].shape[0], 1])
                    or not self.stored[_scale_of(part)].is_floating_point()
                ):
                    wrong.append(f"{_scale_of(part)} is {scale}, no scale of its weight")
        if wrong:
            raise CheckpointError(
                f"{self.source} has {len(wrong)} tensors of another shape than in config.json ({first_few(wrong)}): config "
                "and weights belong to different models."
            )

    def _is_scaled(self, part: str) -> bool:
        return _scale_of(part) in self.stored and self.stored[part].dtype in EIGHT_BIT.values()

    def _is_stored_as(self, parts: list[str], dtype: torch.dtype) -> bool:
        """Whether the file has a weight in this 8-bit type, with one scale or one for each row."""
        return len(parts) == 1 and self._is_scaled(parts[0]) and self.stored[parts[0]].dtype == dtype

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Every name of `expected` with its tensor, on the CPU."""
        for name, parts in self.parts.items():
            expected = self.expected[name]
            if _scale_of(name) in self.expected:
                weight, scale = self._eight_bit_weight(parts, expected.dtype)
                yield name, weight
                yield _scale_of(name), scale
            else:
                yield name, self._float_weight(parts).reshape(expected.shape).to(expected.dtype)

    def _float_weight(self, parts: list[str]) -> Tensor:
        tensors = [
            dequantise(self.stored[part], self.stored[_scale_of(part)]) if self._is_scaled(part) else self.stored[part]
            for part in parts
        ]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def _eight_bit_weight(self, parts: list[str], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A weight and its scale, taken from the file unchanged where it has this type."""
        if self._is_stored_as(parts, dtype):
            return self.stored[parts[0]], self.stored[_scale_of(parts[0])].float()
        return quantise(self._float_weight(parts), dtype)


@collector_paused()  # a garbage collection takes as long as building the layers
def load_model(
    files: CheckpointFiles,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | Precision = torch.float32,
    *,
    layers: Layers = DEFAULT_LAYERS,
    config: JanusConfig | None = None,
) -> JanusModel:
    """Build the model on the meta device and fill it from the checkpoint; `config` is read from it by default.

    Peak memory is about one copy of the weights in `dtype`. On the CPU, tensors that are stored in `dtype` stay
    memory-mapped, and a write into one ends the process: see `make_writable`. Those of a fused layer are copied unless they
    follow one another in the file.
    Raises CheckpointError when a tensor is missing, unknown or of another shape, or the config cannot be built.
    """
    try:
        model = empty_model(config or files.config(), Precision.of(dtype), layers)
    except (RuntimeError, TypeError) as error:  # sizes that memory or 64 bits cannot hold
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{files.describe('config.json')} describes a model that cannot be built ({reason}): fetch the file again."
        ) from error
    targets = model.state_dict()
    slices, state = tensor_slices(targets), {}
    parts: defaultdict[str, list[Tensor]] = defaultdict(list)
    for name, tensor in TensorReader(files, model):
        key, rows = slices[name]
        parts[key].append(tensor.expand(slices[name].of(targets[key]).shape))  # one fp8 scale -> one for each row
        if rows is None or sum(rows) == len(targets[key]):  # the layer's last part
            state[key] = fuse(parts.pop(key), device)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def make_writable(module: nn.Module) -> nn.Module:
    """Copy a module's weights into memory of their own, and return it: a loaded model's may be a file, mapped read-only."""
    for weight in module.parameters():
        weight.data = weight.data.clone()
    return module
