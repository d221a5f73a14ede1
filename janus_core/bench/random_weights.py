"""Models of random weights: speed and memory depend on a model's shape, not on what it has learned."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..config import JanusConfig
from ..model.janus import JanusModel
from ..model.quantised import quantise
from ..precision import Precision
from ..weights.loading import empty_model


@torch.no_grad()
def fill(named_weights: Iterable[tuple[str, Tensor]]) -> None:
    """Fill weights in place: norms are the identity, the rest is noise of deviation 0.02 (in int8, uniform within ±0.02).

    The noise repeats after 4 million numbers, since drawing billions would take minutes.
    """
    noise = torch.randn(2**22, generator=torch.Generator().manual_seed(0)) * 0.02
    for name, weight in named_weights:
        if weight.dtype == torch.int8:
            weight.random_(-127, 128)
        elif name.endswith("weight_scale"):
            weight.fill_(0.02 / 127)
        elif "norm" in name:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            noise = noise.to(weight.device)
            for piece in weight.view(-1).split(len(noise)):
                piece.copy_(noise[: len(piece)])


def random_model(config: JanusConfig, device: torch.device, dtype: torch.dtype) -> JanusModel:
    """A model of random weights, all of them in `dtype`."""
    model = JanusModel(config, device="meta", dtype=dtype).to_empty(device=device).requires_grad_(False).eval()
    fill(model.named_parameters())
    return model


def in_8_bits(model: JanusModel) -> JanusModel:
    """The model with its big Linear layers in int8; it shares all other tensors."""
    small = empty_model(model.config, Precision.of("int8", model.language_model.model.norm.weight.dtype))
    state = {}
    for key, tensor in model.state_dict().items():
        if small.get_parameter(key).dtype == torch.int8:
            state[key], state[f"{key}_scale"] = quantise(tensor, torch.int8)
        else:
            state[key] = tensor
    small.load_state_dict(state, assign=True)
    return small.requires_grad_(False).eval()
