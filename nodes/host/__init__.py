"""Where the pack meets ComfyUI: its model folders, devices, memory manager, progress bar and interruption."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from PIL import Image
from torch import nn

from ...janus_core import CheckpointError, ImageTokens, Janus, load
from ...janus_core.conversation import Conversation, check_room
from ...janus_core.generation.execution import Execution
from ...janus_core.memory import (
    PARTS,
    Need,
    fitting_precision,
)
from ...janus_core.model.cpu_ops import multiplies_bfloat16
from ...janus_core.precision import EIGHT_BIT, NAMES, Precision
from ...janus_core.weights.checkpoint import find
from ...janus_core.weights.lora import LoraLayer, read_lora
from .operations import Operations, QuantisedHostedLinear, is_unpatched

Progress = Callable[[int, int, Any], None]
FOLDER = "janus"
DTYPES = ("auto", *NAMES)
OFTEN = 0.2  # seconds between two messages of progress, at least: telling takes time from drawing


def register_folders() -> None:
    """Make `models/janus` and `models/Janus-Pro` places for checkpoints, after any that extra_model_paths.yaml names."""
    for name in ("janus", "Janus-Pro"):
        folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, name)))
    with contextlib.suppress(OSError):  # a models folder that cannot be written to can still be read
        Path(folder_paths.models_dir, "janus").mkdir(exist_ok=True)


def search_aliases(*words: str) -> dict[str, Any]:
    """Further words that a node is found under, as arguments of its Schema; nothing where ComfyUI does not know them."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": ["deepseek", *words]} if "search_aliases" in known else {}


def model_roots() -> list[Path]:
    """The folders where checkpoints lie, the first to be preferred."""
    return [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]


def model_folder() -> Path:
    """The folder where new checkpoints go."""
    roots = model_roots()
    return next((root for root in roots if root.is_dir()), roots[0])


def loras() -> list[str]:
    """The LoRA files in ComfyUI's folders, as its lists name them."""
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """Where a listed LoRA lies. Raises CheckpointError for any other name, which may come from anyone's workflow."""
    path = folder_paths.get_full_path("loras", name) if name in loras() else None
    if path is None:
        raise CheckpointError(
            f"There is no LoRA {name!r} here: put the file into ComfyUI's models/loras and refresh, or choose another."
        )
    return Path(path)


def _compute_dtype(device: torch.device) -> torch.dtype:
    """The smallest type that the device computes well in."""
    if device.type == "cpu":  # where ComfyUI knows only float32
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32


def _part(model: nn.Module, part: str) -> nn.Module:
    """One of the model's PARTS by itself, under the model's own names; ComfyUI's log calls it by its class."""
    root = type(f"Janus{part}", (nn.Module,), {})()
    for name in PARTS[part]:
        *path, last = name.split(".")
        place = root
        for step in path:
            if step not in place._modules:
                place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        place.add_module(last, model.get_submodule(name))
    return root


class HostedJanus:
    """A Janus whose weights ComfyUI moves: one patcher for each part that is asked for by itself.

    The table of word embeddings stays where it was loaded, and its rows travel.
    """

    def __init__(self, janus: Janus, load_device: torch.device, offload_device: torch.device):
        self._janus = janus
        self._base: HostedJanus | None = None
        self._patchers = {}
        for part in PARTS:
            # Not the CoreModelPatcher of hosts with dynamic VRAM: it leaves weights in system memory and fetches them at
            # each use, hundreds of times a picture and in no CUDA graph, and knows nothing of 8-bit weights' scales.
            self._patchers[part] = comfy.model_patcher.ModelPatcher(
                _part(janus.model, part), load_device=load_device, offload_device=offload_device
            )

    def to_draw(
        self, prompt: str, pictures: int, cfg_weight: float, sampler: str, window: int, previewing: bool
    ) -> Janus:
        """The model, ready to draw, and to decode previews if asked. Raises InputError for a bad prompt."""
        need = self._janus.drawing_need(prompt, pictures, cfg_weight=cfg_weight, sampler=sampler, window=window)
        return self._ready(need + self._janus.decoding_need() if previewing else need)

    def to_answer(self, question: str, max_tokens: int) -> Janus:
        """The model, ready to answer about one picture at a time. Raises InputError for an empty question."""
        return self._ready(self._janus.answering_need(question, 1, max_new_tokens=max_tokens))

    def to_talk(self, conversation: Conversation, max_tokens: int) -> Janus:
        """The model, ready to continue a conversation. Raises InputError when it is too long."""
        check_room(self._janus, conversation, max_tokens)
        turns, pictures = list(conversation.turns), len(conversation.pictures)
        return self._ready(self._janus.answering_need(turns, pictures, max_new_tokens=max_tokens))

    def to_decode(self, tokens: ImageTokens | None = None) -> Janus:
        """The model, ready to turn tokens, or one picture of its own size, into pixels."""
        return self._ready(self._janus.decoding_need(tokens))

    def _ready(self, need: Need) -> Janus:
        """The model with the parts it needs on the device, as far as they and the work fit there."""
        comfy.model_management.load_models_gpu([self._patchers[part] for part in need.parts], need.bytes)
        return self._janus

    def read_lora(self, path: Path) -> list[LoraLayer]:
        """The layers of a LoRA file for this model. Raises CheckpointError."""
        return read_lora(path, self._janus.model)

    def with_lora(self, layers: list[LoraLayer], strength: float) -> HostedJanus:
        """This Janus with a LoRA on top of what it has. They share their weights, which ComfyUI patches as it loads them."""
        patched = copy.copy(self)
        patched._base = self  # so that as long as one is in use, a Load Janus finds the weights
        patched._patchers = dict(self._patchers)
        for part, names in PARTS.items():
            if mine := [layer for layer in layers if layer.target.key.startswith(tuple(f"{name}." for name in names))]:
                patched._patchers[part] = self._patchers[part].clone()
                patched._patchers[part].add_patches(_patches(mine), strength)
        return patched


def _patches(layers: list[LoraLayer]) -> dict[Any, Any]:
    """LoRA layers as ComfyUI's patcher takes them: by key, or by (key, (dimension, start, length)) for a part of one."""
    tensors, targets = {}, {}
    for i, layer in enumerate(layers):
        rank = layer.down.shape[0]
        alpha = torch.tensor(layer.scale * rank, dtype=torch.float64)
        tensors |= {f"{i}.lora_up.weight": layer.up, f"{i}.lora_down.weight": layer.down, f"{i}.alpha": alpha}
        key, rows = layer.target.key, layer.target.rows
        targets[str(i)] = key if rows is None else (key, (0, *rows))
    return comfy.lora.load_lora(tensors, targets)


def file_stamps(checkpoint: str | Path) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of a checkpoint's files: another value once one is replaced. Raises CheckpointError."""
    return stamps(find(checkpoint).files)


def stamps(files: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of each file."""
    stats = ((path, path.stat()) for path in files)
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


# What is in use somewhere, for a second Load Janus of the same files to share.
_loaded: weakref.WeakValueDictionary[Any, HostedJanus] = weakref.WeakValueDictionary()


def load_janus(checkpoint: str | Path, choice: str = "auto") -> HostedJanus:
    """Open a checkpoint where ComfyUI keeps idle weights, unless it is open already. Raises CheckpointError.

    `choice` is one of DTYPES; for "auto" see `fitting_precision`.
    """
    device, stamps = comfy.model_management.get_torch_device(), file_stamps(checkpoint)
    if choice == "auto":
        precision = _auto(checkpoint, device, stamps)
    else:
        precision = Precision.of(choice, _compute_dtype(device) if choice in EIGHT_BIT else None)
    precision.check(device)
    hosted = _loaded.get((stamps, precision))
    if hosted is None:
        offload_device = comfy.model_management.unet_offload_device()
        dtype = precision.eight_bit or precision.compute
        graphs = not getattr(comfy.cli_args.args, "disable_cuda_graphs", False)  # newer hosts have the flag
        janus = load(
            checkpoint,
            offload_device,
            dtype,
            compute=precision.compute if precision.eight_bit else None,
            operations=Operations,
            quantised_layer=QuantisedHostedLinear,
            execution=Execution(device, graphs=graphs, unpatched=is_unpatched),
        )
        hosted = _loaded[stamps, precision] = HostedJanus(janus, device, offload_device)
    return hosted


def _auto(checkpoint: str | Path, device: torch.device, stamps: object) -> Precision:
    """The precision for a device by its type and free memory, and a line in the log that says which."""
    source, compute = find(checkpoint), _compute_dtype(device)
    if (stamps, Precision(compute)) in _loaded:  # it is there, and takes no memory more
        return Precision(compute)
    memory = comfy.model_management.get_free_memory(device) - comfy.model_management.extra_reserved_memory()
    if device.type not in ("cpu", "mps"):  # there ComfyUI gives back what its models hold
        models = comfy.model_management.loaded_models()  # None for one that is gone
        memory += sum(model.loaded_size() for model in models if model is not None and model.load_device == device)
    precision = fitting_precision(source.config(), compute, source.dtype, memory)
    logging.getLogger(__name__).info(
        f"Janus: dtype auto is {precision.name} for {checkpoint}, as {device} has {memory / 1e9:.1f} GB for it"
    )
    return precision


def to_image(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures [N, H, W, 3] on the device where ComfyUI passes IMAGEs on."""
    return pictures.to(comfy.model_management.intermediate_device())


def preview_method() -> str:
    """How the user wants pictures shown while they are drawn: "none", "auto", "latent2rgb" or "taesd"."""
    return comfy.cli_args.args.preview_method.value


def on_prompt(handler: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Have every request to run a workflow go through `handler` before it is queued."""
    _server().add_on_prompt_handler(handler)


def show(node: str, output: dict[str, Any]) -> None:
    """Tell the canvas that queued this run what a node has to show so far, for the pack's own scripts."""
    server = _server()
    if server is None or server.client_id is None:  # a script, which has no canvas: without an id all would be told
        return
    data = {"node": node, "output": output, "prompt_id": server.last_prompt_id}
    server.send_sync("janus.output", data, server.client_id)


def _server() -> Any:
    from server import PromptServer

    return getattr(PromptServer, "instance", None)  # made when ComfyUI starts to serve


def heed_interrupts(*_: object) -> None:
    """The core's `progress` for work that shows none: stops when the user says so."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress(
    run: int = 0, runs: int = 1, preview: Callable[[int, int, Any], Image.Image | None] | None = None
) -> Progress:
    """The core's `progress` for one of several equal runs in a node: moves its bar, and stops when the user says so.

    `preview` gets the same and gives the picture to show, if any.
    """
    bar, told = comfy.utils.ProgressBar(runs), 0.0

    def report(step: int, total: int, tokens: Any) -> None:
        nonlocal told
        heed_interrupts()
        frame = preview(step, total, tokens) if preview else None
        now = time.monotonic()
        if frame or step == total or now - told >= OFTEN:
            told = now
            bar.update_absolute(run * total + step, runs * total, frame and _jpeg(frame))

    return report


def show_frame(frame: Image.Image) -> None:
    """Show the last frame of what was shown while it was made."""
    comfy.utils.ProgressBar(1).update_absolute(1, 1, _jpeg(frame))


def _jpeg(frame: Image.Image) -> tuple[str, Image.Image, int]:
    return "JPEG", frame, max(frame.size)
