"""Write the weights of a trained model beside its config."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from .names import split_fused
from .writing import replacing


def save_weights(model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Write a model's `model.safetensors` into a folder, cast to `dtype`, under DeepSeek's tensor names.

    Raises InputError if it cannot be written.
    """
    state = {name: tensor.detach().to("cpu", dtype) for name, tensor in split_fused(model.state_dict()).items()}
    save_tensors(state, folder / "model.safetensors")


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, in full or not at all. Raises InputError if it cannot be written."""
    with replacing(path) as part:
        try:
            texts = {"format": "pt", **(metadata or {})}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=texts)
        except SafetensorError as error:  # the disk is full, or the like
            raise OSError(str(error)) from error
