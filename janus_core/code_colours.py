"""One colour for each code, for fast previews: a linear map from codebook vectors, fitted to the VQ decoder."""

import torch
from torch import Tensor

from .generation.sampling import check_finite
from .model.vq import VQModel
from .pipeline import Janus

SAMPLES = 64  # codes that are decoded, 3 x 3 tokens each: as much work as one picture of 24 x 24
RIDGE = 0.1  # penalty, as a share of the codes' mean variance


@torch.no_grad()
def code_colours(janus: Janus) -> Tensor:
    """The colour of every code, float32 [codebook_size, 3] in 0..1 on the CPU.

    SAMPLES codes are decoded, each as a patch surrounded by itself. Ridge regression from their codebook vectors to the
    mean colour of the middle gives all the others. Raises CheckpointError if the decoder computes NaN.
    """
    vq: VQModel = janus.model.gen_vision_model
    size = janus.model.config.vq.codebook_size
    samples = (torch.arange(SAMPLES) * size // SAMPLES).unique()
    pixels = torch.cat([vq.decode(code.expand(1, 9), (3, 3)).float() for code in samples.to(janus.device)])
    check_finite(pixels)
    edge = pixels.shape[-1] // 6
    colours = ((pixels[..., edge:-edge, edge:-edge] + 1) / 2).clamp(0, 1).mean(dim=(2, 3)).cpu()
    vectors = vq.quantize.lookup(torch.arange(size, device=janus.device)).float().cpu()
    centre, middle = vectors[samples].mean(0), colours.mean(0)
    x, y = vectors[samples] - centre, colours - middle
    penalty = RIDGE * len(x) * x.square().mean() * torch.eye(x.shape[1])
    return ((vectors - centre) @ torch.linalg.solve(x.T @ x + penalty, x.T @ y) + middle).clamp(0, 1)
