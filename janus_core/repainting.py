"""Tokens as a canvas: draw some codes of a picture anew, or draw near a picture's codes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .generation.codes import Anchors, Kept
from .generation.image import Progress
from .pictures import fitted_box
from .pipeline import Janus
from .tokens import ImageTokens

REPAINT_SALT = 0x7265_7061_696E_74


def code_mask(mask: Tensor, grid: tuple[int, int], *, grow: int = 0) -> Tensor:
    """The codes that a mask touches: float [N, H, W] of any size, above 0.5 where to paint -> bool [N, h, w] of `grid`.

    `grow` adds that many codes on every side. Raises InputError for another shape, and for NaN.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or 0 in mask.shape or not bool(mask.isfinite().all()):
        raise InputError(f"The mask has shape {list(mask.shape)} or holds NaN: give one of [N, height, width] in 0..1.")
    touched = F.adaptive_max_pool2d((mask > 0.5).float()[:, None], grid)
    if grow > 0:
        touched = F.max_pool2d(touched, 2 * grow + 1, stride=1, padding=grow)
    return touched[:, 0] > 0


def repaint(
    janus: Janus,
    tokens: ImageTokens,
    mask: Tensor,
    prompt: str,
    *,
    candidates: int = 1,
    seed: int = 0,
    sampler: str = "jacobi",
    progress: Progress | None = None,
    **settings: Any,
) -> ImageTokens:
    """Draw the codes under `mask`, bool [h, w] or [N, h, w], anew, and keep all others exactly.

    `prompt` describes the whole picture. Codes are drawn in raster order, and cannot look ahead. So `candidates` are drawn
    of each picture, and the one is taken after which the kept codes are likeliest. Picture i has seed + i. Its noise is
    another than that of `generate`, which would draw the picture's own codes again, unless the codes to keep are the first
    ones: then this continues what `generate` draws. `settings` are those of `generate`; jacobi reads kept codes a window
    at a time. Raises InputError for tokens of another model or size, a mask of another size, and as `generate` does.
    """
    count, steps = len(tokens), math.prod(tokens.grid)
    _check_own(janus, tokens)
    mask = mask.cpu()
    if (
        mask.dtype != torch.bool
        or mask.shape[-2:] != tokens.grid
        or mask.ndim > 3
        or mask[..., 0, 0].numel() not in (1, count)
    ):
        raise InputError(
            f"The mask has shape {list(mask.shape)} and type {mask.dtype}: give true or false for each of {tokens.grid[0]} x "
            f"{tokens.grid[1]} codes, for all pictures or for each of the {count}."
        )
    if candidates < 1:
        raise InputError(f"There are {candidates} candidates: draw at least one.")
    free = mask.reshape(-1, steps).expand(count, steps)
    if not free.any():
        return tokens
    codes = tokens.ids.cpu().masked_fill(free, -1).repeat_interleave(candidates, dim=0)
    continues = bool((free.int().diff(dim=1) >= 0).all())  # nothing is kept after a drawn code
    kept = Kept(codes, torch.zeros(codes.shape, device=janus.device))
    drawing = janus.drawing_of(
        prompt,
        count * candidates,
        seed=seed,
        salts=tuple((0 if continues else REPAINT_SALT) + k for k in range(candidates)),
        kept=kept,
        sampler=sampler,
        **settings,
    )
    ids = janus.draw(drawing, progress).ids
    likelihood = kept.likelihood.masked_fill(codes.to(janus.device) < 0, 0).sum(dim=1)
    best = likelihood.view(count, candidates).argmax(dim=1)
    chosen = ids.view(count, candidates, steps)[torch.arange(count, device=ids.device), best]
    return ImageTokens(chosen, tokens.grid, tokens.codebook)


def vary(
    janus: Janus,
    tokens: ImageTokens,
    prompt: str,
    *,
    strength: float = 0.5,
    progress: Progress | None = None,
    **settings: Any,
) -> ImageTokens:
    """Draw each of the pictures again with its codes as anchors: structure stays, what the prompt says changes.

    `strength` 1 draws what `generate` draws with these `settings`, 0 gives the codes themselves: see `Anchors`. Raises
    InputError for tokens of another model or size, a strength outside 0..1, and as `generate` does.
    """
    _check_own(janus, tokens)
    if not 0 <= strength <= 1:
        raise InputError(f"The strength is {strength}: give a number from 0, the same picture, to 1, a new one.")
    codebook = janus.model.gen_vision_model.quantize.embedding.weight
    vectors = F.normalize(codebook.detach().float(), dim=-1).to(janus.device)
    anchors = Anchors(source=tokens.ids.to(janus.device), vectors=vectors, strength=strength)
    return janus.draw(janus.drawing_of(prompt, len(tokens), anchors=anchors, **settings), progress)


def _check_own(janus: Janus, tokens: ImageTokens) -> None:
    """Raise InputError unless these are tokens of the model's own codebook and picture size."""
    grid = janus.model.config.grid
    janus.check_tokens(tokens)
    if tokens.grid != grid:
        raise InputError(
            f"These tokens are {tokens.grid[0]} x {tokens.grid[1]} codes and the model draws {grid[0]} x {grid[1]}: encode the "
            "picture cropped, padded or stretched to the model's size."
        )


def pasted(originals: Tensor, pictures: Tensor, mask: Tensor, *, fit: str, edge: int) -> Tensor:
    """The repainted part of pictures, pasted into the originals that were `fitted` to their size by `fit`.

    `originals` float [N, H, W, 3], `pictures` [N, h, w, 3] as decoded, `mask` bool [N or 1, rows, columns] of codes that
    were drawn anew. Between the two is a soft edge of up to `edge` pixels of `pictures` outside the mask. Returns float32
    [N, H, W, 3]: away from the mask each pixel is the original's own.
    """
    count, height, width = originals.shape[:3]
    size = (pictures.shape[1], pictures.shape[2])
    alpha = F.interpolate(mask[:, None].float(), size, mode="nearest")
    if edge:
        # Grown by half the edge, then averaged over all of it: 1 within the mask, and 0 from `edge` pixels outside it.
        half = edge // 2
        alpha = F.max_pool2d(alpha, 2 * half + 1, stride=1, padding=half)
        alpha = F.avg_pool2d(alpha, 2 * half + 1, stride=1, padding=half, count_include_pad=False)
    layers = torch.cat(
        (pictures.permute(0, 3, 1, 2).float(), alpha.expand(count, -1, -1, -1).to(pictures.device)), dim=1
    )
    rows, columns, top, left = fitted_box((height, width), size, fit)
    if fit == "pad":  # the original is a part of the picture
        inner = layers[:, :, top : top + rows, left : left + columns]
        layers = F.interpolate(inner, (height, width), mode="bilinear", align_corners=False)
    else:  # the picture is a part of the original, or all of it
        part = F.interpolate(layers, (rows, columns), mode="bilinear", align_corners=False)
        layers = F.pad(part, (left, width - left - columns, top, height - top - rows))
    painted, alpha = layers[:, :3].permute(0, 2, 3, 1), layers[:, 3:].permute(0, 2, 3, 1)
    originals = originals.float().to(painted.device)
    return torch.where(alpha > 0, originals + alpha * (painted.clamp(0, 1) - originals), originals)
