"""A hash of weights, to tell whether anything has touched them."""

import hashlib

import torch
from torch import nn


def digest(module: nn.Module) -> str:
    """Of all that a module's state holds, names included."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
