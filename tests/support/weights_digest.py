"""A hash of a module's weights, to see whether anything changed them."""

import hashlib

import torch
from torch import nn


def digest(module: nn.Module) -> str:
    """SHA-256 of a module's whole state, names included."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
