"""Write the weights of a trained model beside its config."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from .names import split_fused


def save_weights(model: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Write a model's `model.safetensors` into a folder, cast to `dtype`, under DeepSeek's tensor names."""
    state = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in split_fused(model.state_dict()).items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
