"""Where the pack meets ComfyUI: its model folders, devices, memory manager, progress bar and interruption."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import torch
from torch import nn

from ..janus_core import Janus, load

FOLDER = "janus"
DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# What is moved together, because it is used together; ComfyUI's log calls the parts by these names.
PARTS = {
    "JanusUnderstanding": ("vision_model", "aligner"),
    "JanusLanguage": ("language_model", "gen_embed", "gen_aligner", "gen_head"),
    "JanusVQ": ("gen_vision_model",),
}


def register_folders() -> None:
    """Make `models/janus` and `models/Janus-Pro` places for checkpoints, after any that extra_model_paths.yaml names."""
    for name in ("janus", "Janus-Pro"):
        folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, name)))
    with contextlib.suppress(OSError):  # a models folder that cannot be written to can still be read
        Path(folder_paths.models_dir, "janus").mkdir(exist_ok=True)


def model_roots() -> list[Path]:
    """The folders where checkpoints lie, the first to be preferred."""
    return [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]


def compute_dtype(name: str) -> torch.dtype:
    """The dtype of a choice in DTYPES; "auto" is the smallest that the device computes well in."""
    if (dtype := DTYPES[name]) is not None:
        return dtype
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32


class HostedJanus:
    """A Janus whose weights ComfyUI moves: one patcher for each part that is asked for by itself."""

    def __init__(self, janus: Janus, load_device: torch.device, offload_device: torch.device):
        # Dynamic-VRAM hosts put their own patcher under this name.
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        self._janus = janus
        self._patchers = {}
        for part, names in PARTS.items():
            module = type(part, (nn.Module,), {})()
            for name in names:
                module.add_module(name, getattr(janus.model, name))
            self._patchers[part] = patcher(module, load_device=load_device, offload_device=offload_device)

    def ready(self, *parts: str) -> Janus:
        """The model, with the named parts on its device, as far as ComfyUI finds room for them."""
        comfy.model_management.load_models_gpu([self._patchers[part] for part in parts])
        return self._janus


def load_janus(checkpoint: str | Path, dtype: torch.dtype) -> HostedJanus:
    """Open a checkpoint where ComfyUI keeps idle weights. Raises CheckpointError."""
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    janus = load(checkpoint, offload_device, dtype, comfy.ops.disable_weight_init)
    janus.device = load_device
    return HostedJanus(janus, load_device, offload_device)


def to_image(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [N, H, W, 3] on the device where ComfyUI passes IMAGEs on."""
    return pictures.to(comfy.model_management.intermediate_device())


def progress(run: int = 0, runs: int = 1) -> Callable[[int, int, Any], None]:
    """The core's `progress` for one of several equal runs in a node: moves its bar, and stops when the user says so."""
    bar = comfy.utils.ProgressBar(runs)

    def report(step: int, total: int, tokens: Any) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(run * total + step, runs * total)

    return report
