"""First weights of the code embedding and the image head, from the patch of each VQ code.

With random weights the image head has to find out code by code that the codes of all red circles have something in
common.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.janus import JanusModel
from ..training.vq import UNUSED_CENTRE


def principal_axes(features: Tensor, count: int) -> Tensor:
    """Features [n, f] along their `count` strongest principal axes, as unit vectors [n, count].

    Each axis is divided by the root of its strength, so that the strongest do not hide the others.
    """
    features = features - features.mean(0)
    _, strengths, axes = torch.linalg.svd(features, full_matrices=False)
    return F.normalize(features @ axes[:count].T / strengths[:count] ** 0.5, dim=-1)


def patch_features(patches: Tensor, width: int) -> Tensor:
    """Patches [n, 3 * side * side] -> vectors [n, width]: the first half describes colours, the second the outline.

    The outline is the patch's saturation as a share of its largest: the same for a shape in every colour.
    """
    pixels = patches.unflatten(1, (3, -1))
    saturation = pixels.amax(1) - pixels.amin(1)
    outline = saturation / saturation.amax(1, keepdim=True).clamp(min=0.1)
    return torch.cat([principal_axes(patches, width // 2), principal_axes(outline, width // 2)], dim=1)


def joint_features(patches: Tensor, width: int) -> Tensor:
    """Patches [n, 3 * side * side] -> unit vectors [n, width], similar only if colours *and* outline are.

    They are random projections of the products of both. Sums of the two cannot express "a red circle or a blue
    square" without "a blue circle".
    """
    colours, outlines = patch_features(patches, 32).chunk(2, dim=1)
    products = (colours[:, :, None] * outlines[:, None, :]).flatten(1)
    projection = torch.randn(products.shape[1], width, generator=torch.Generator().manual_seed(0)) * width**-0.5
    return F.normalize(products @ projection, dim=1)


@torch.no_grad()
def init_codes_from_patches(model: JanusModel, centres: Tensor) -> None:
    """Give codes of similar patches similar rows in `gen_embed` and in the image head's last layer.

    `centres` are the patches [codes, 3 * side * side] from which the VQ tokenizer's codes were initialised.
    """
    used = centres[:, 0] < UNUSED_CENTRE
    embedding, head = model.gen_embed.weight.zero_(), model.gen_head.vision_head.weight.zero_()
    embedding[used] = embedding.shape[1] ** 0.5 * patch_features(centres[used], embedding.shape[1])
    half = head.shape[1] // 2
    head[used, :half] = 0.7 * patch_features(centres[used], half)
    head[used, half:] = joint_features(centres[used], head.shape[1] - half)
    model.gen_head.vision_head.bias.zero_()
