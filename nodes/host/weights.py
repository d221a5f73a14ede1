"""Models whose weights ComfyUI moves: its patchers, LoRAs on them, the registry of what is loaded, and dtype "auto"."""

from __future__ import annotations

import copy
import logging
import weakref
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import torch
from torch import nn

from ...janus_core import ImageTokens, Janus, load
from ...janus_core.batch.sizes import answering_rows_need, fitting
from ...janus_core.checkpoints import in_dialect
from ...janus_core.dialects import NAMES as DIALECTS
from ...janus_core.dialects import dialect_of
from ...janus_core.generation.execution import Execution
from ...janus_core.memory import PARTS, Need, fitting_precision
from ...janus_core.model.cpu_ops import cpu_compute_dtype
from ...janus_core.precision import EIGHT_BIT, NAMES, Precision
from ...janus_core.weights.checkpoint import find
from ...janus_core.weights.lora import LoraLayer
from .canvas import raise_if_interrupted
from .folders import checkpoint_stamps
from .operations import LAYERS, unpatched_at_use

DTYPES = ("auto", *NAMES)


def _compute_dtype(device: torch.device) -> torch.dtype:
    """The smallest dtype that the device is fast in."""
    if device.type == "cpu":  # ComfyUI would say float32 for every CPU
        return cpu_compute_dtype()
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32


def _part(model: nn.Module, part: str) -> nn.Module:
    """A module with only one of the model's PARTS, under the same keys. ComfyUI's log names it by its class."""
    root = type(f"Janus{part}", (nn.Module,), {})()
    for name in PARTS[part]:
        *path, last = name.split(".")
        parent = root
        for step in path:
            if not hasattr(parent, step):
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(last, model.get_submodule(name))
    return root


class HostedJanus:
    """A Janus whose weights ComfyUI moves between devices, with one patcher for each of PARTS.

    The table of word embeddings is in none of them and stays on the offload device: only the rows looked up are copied.
    """

    def __init__(self, core: Janus, offload_device: torch.device):
        self.core = core  # its weights may be anywhere until `ready`
        self._base: HostedJanus | None = None
        # Not the CoreModelPatcher of newer versions: its dynamic VRAM copies weights from system memory at each use,
        # hundreds of times a picture and outside any CUDA graph, and does not know the scales of 8-bit weights.
        self._patchers = {
            part: comfy.model_patcher.ModelPatcher(
                _part(core.model, part), load_device=core.device, offload_device=offload_device
            )
            for part in PARTS
        }

    def ready(self, need: Need) -> Janus:
        """The core Janus, after asking ComfyUI to load the needed parts, as far as they fit beside the work."""
        comfy.model_management.load_models_gpu([self._patchers[part] for part in need.parts], need.bytes)
        return self.core

    @property
    def language_patcher(self) -> comfy.model_patcher.ModelPatcher:
        """The patcher of the transformer's layers."""
        return self._patchers["Language"]

    def ready_to_answer(self, question: str, *, most: int, max_new_tokens: int) -> tuple[Janus, int]:
        """`ready` to ask `question` about pictures, and of how many at once: at most `most`, and what the memory holds.

        Raises InputError for an empty question and a context too long.
        """
        core = self.core
        core.answering_need(question, 1, max_new_tokens=max_new_tokens)
        prompt = len(core.processor.question_prompt(question, 1))
        need = lambda rows: answering_rows_need(core, rows, max_new_tokens=max_new_tokens, prompt=prompt)
        weights = sum(self._patchers[part].model_size() for part in need(1).parts)
        rows = fitting(lambda rows: need(rows).bytes, core.device, memory=_usable_memory(core.device) - weights)
        rows = min(rows, most)
        return self.ready(need(rows)), rows

    def decode(self, tokens: ImageTokens) -> torch.Tensor:
        """The tokens' pictures, float32 [N, H, W, 3] in 0..1, on the device where ComfyUI keeps images.

        Raises InputError for another model's tokens, and when the user has pressed interrupt.
        """
        core = self.ready(self.core.decoding_need(tokens))
        return core.decode(tokens, progress=raise_if_interrupted).to(comfy.model_management.intermediate_device())

    def encode(self, images: torch.Tensor) -> ImageTokens:
        """The tokens of pictures [N, H, W, 3]. Raises InputError as `Janus.encode`, and when the user interrupts."""
        return self.ready(self.core.encoding_need(images)).encode(images, progress=raise_if_interrupted)

    def with_core(self, core: Janus) -> HostedJanus:
        """This Janus under another `core` over the same weights."""
        other = copy.copy(self)
        other.core, other._base = core, self
        return other

    def with_lora(self, layers: list[LoraLayer], strength: float) -> HostedJanus:
        """This Janus with one more LoRA. Both share their weights, which ComfyUI patches when it loads a part."""
        patched = copy.copy(self)
        patched._base = self  # keeps the base in the registry, so that Load Janus finds the weights
        patched._patchers = dict(self._patchers)
        for part, names in PARTS.items():
            under = tuple(f"{name}." for name in names)
            if of_part := [layer for layer in layers if layer.target.key.startswith(under)]:
                patched._patchers[part] = self._patchers[part].clone()
                patched._patchers[part].add_patches(_patches(of_part), strength)
        return patched


def _patches(layers: list[LoraLayer]) -> dict[Any, Any]:
    """LoRA layers as ComfyUI's patcher takes them: by key, or by (key, (dimension, start, length)) for a slice of its rows."""
    tensors, targets = {}, {}
    for i, layer in enumerate(layers):
        tensors |= {
            f"{i}.lora_up.weight": layer.up,
            f"{i}.lora_down.weight": layer.down,  # [rank, width]
            f"{i}.alpha": torch.tensor(layer.scale * len(layer.down), dtype=torch.float64),
        }
        key, rows = layer.target.key, layer.target.rows
        targets[str(i)] = key if rows is None else (key, (0, *rows))
    return comfy.lora.load_lora(tensors, targets)


# By (checkpoint_stamps, precision, dialect): what is in use, so that a second Load Janus of the same files shares its weights.
_loaded: weakref.WeakValueDictionary[Any, HostedJanus] = weakref.WeakValueDictionary()


def load_janus(checkpoint: str | Path, dtype: str = "auto", dialect: str | None = None) -> HostedJanus:
    """A checkpoint, loaded to ComfyUI's offload device unless it is already in use. Raises CheckpointError.

    `dtype` is one of DTYPES; for "auto" see `memory.fitting_precision`. `dialect` is one of DIALECTS, None asks the files.
    """
    device, stamps = comfy.model_management.get_torch_device(), checkpoint_stamps(checkpoint)
    if dtype == "auto":
        precision = _auto(checkpoint, device, stamps)
    else:
        precision = Precision.of(dtype, _compute_dtype(device) if dtype in EIGHT_BIT else None)
    precision.check(device)
    spoken = dialect_of(find(checkpoint), dialect).name
    logging.getLogger(__name__).info(f"Janus: {checkpoint} is spoken to as {spoken}")
    hosted = _loaded.get((stamps, precision, spoken))
    if hosted is None and (other := _in_use(stamps, precision)):
        hosted = _loaded[stamps, precision, spoken] = other.with_core(in_dialect(other.core, checkpoint, spoken))
    if hosted is None:
        offload_device = comfy.model_management.unet_offload_device()
        graphs = not getattr(comfy.cli_args.args, "disable_cuda_graphs", False)  # a flag of newer versions
        core = load(
            checkpoint,
            offload_device,
            precision.eight_bit or precision.compute,
            compute=precision.compute,
            layers=LAYERS,
            execution=Execution(device, graphs=graphs, unpatched=unpatched_at_use),
            dialect=spoken,
        )
        hosted = _loaded[stamps, precision, spoken] = HostedJanus(core, offload_device)
    return hosted


def _in_use(stamps: object, precision: Precision) -> HostedJanus | None:
    """What is loaded of these files, in any dialect."""
    return next((hosted for name in DIALECTS if (hosted := _loaded.get((stamps, precision, name)))), None)


def _usable_memory(device: torch.device) -> int:
    """Bytes on a device that are free, or that ComfyUI frees by unloading its models."""
    memory = comfy.model_management.get_free_memory(device) - comfy.model_management.extra_reserved_memory()
    if device.type not in ("cpu", "mps"):
        memory += sum(
            model.loaded_size()
            for model in comfy.model_management.loaded_models()
            if model is not None and model.load_device == device  # None: it was deleted
        )
    return memory


def _auto(checkpoint: str | Path, device: torch.device, stamps: object) -> Precision:
    """The precision for a device by its type and free memory, which is also logged."""
    source, compute = find(checkpoint), _compute_dtype(device)
    if (stamps, Precision(compute)) in _loaded:  # sharing it takes no more memory
        return Precision(compute)
    memory = _usable_memory(device)
    precision = fitting_precision(source.config(), compute=compute, stored_dtype=source.dtype, memory=memory)
    logging.getLogger(__name__).info(
        f"Janus: dtype auto is {precision.name} for {checkpoint}, as {device} has {memory / 1e9:.1f} GB for it"
    )
    return precision
