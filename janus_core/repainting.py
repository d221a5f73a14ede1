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
