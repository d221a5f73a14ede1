"""Janus Repaint and Janus Variations: pictures from the tokens of other pictures."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from comfy_api.latest import io

from ..janus_core import ImageTokens, InputError, code_mask, repaint, vary
from ..janus_core.pictures import FITS, check_images, fitted_box, over_white
from ..janus_core.repainting import pasted
from . import inputs
from .host import canvas
from .host.weights import HostedJanus
from .preview import ready_to_draw
from .seeds import thumbnails
from .types import SamplingSettings, SamplingType, TokensType

TOKENS = TokensType.Input("tokens", tooltip="The picture as tokens: from a drawing node, VQ Encode or Load Tokens.")
PROMPT = inputs.text_box(
    "prompt",
    placeholder="What the whole picture shows",
    tooltip="What the whole picture should show when it is done, not the new part alone.",
)
SAMPLING = SamplingType.Input("sampling", optional=True, tooltip="Finer settings, from Janus Sampling.")
SEED = inputs.seed(
    control_after_generate=True,
    tooltip="The same seed and settings give the same picture. In a batch the second picture has seed + 1.",
)
OUTPUTS = [
    io.Image.Output(display_name="image", tooltip="The new pictures."),
    TokensType.Output("new_tokens", display_name="tokens", tooltip="The new pictures as tokens."),
]


def drawing_settings(cfg: float, temperature: float, sampling: SamplingSettings | None) -> dict[str, Any]:
    """Keyword arguments of `Janus.generate`."""
    return {"cfg_weight": cfg, "temperature": temperature, **(asdict(sampling) if sampling else {})}


class JanusRepaint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusRepaint",
            display_name="Janus Repaint",
            category="Janus",
            description="Draws the part of a picture under a mask anew. All other tokens stay as they are. A mask over "
            "the lower rows continues the picture.",
            **inputs.search_aliases("inpaint", "inpainting", "outpaint", "extend", "mask", "edit", "fill"),
            **inputs.shown_from_cache(),
            inputs=[
                inputs.MODEL,
                TOKENS,
                io.Mask.Input(
                    "mask",
                    tooltip="Where to draw anew, from the mask editor or any mask node; of any size. A token is drawn anew "
                    "if the mask touches it.",
                ),
                PROMPT,
                SEED,
                inputs.CFG,
                inputs.DRAWING_TEMPERATURE,
                io.Int.Input(
                    "candidates",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="Draw the part this many times, and keep the one that the rest of the picture suits best. Takes "
                    "as much longer.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=0,
                    max=8,
                    tooltip="Draw this many more tokens around the mask. A token is 16 pixels wide.",
                ),
                io.Image.Input(
                    "original",
                    optional=True,
                    tooltip="The picture that the tokens were made from, at its own size. All of it that the mask does not "
                    "touch is put back, so that a photograph stays one.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=FITS[0],
                    optional=True,
                    tooltip="For original: the fit that VQ Encode used.",
                ),
                io.Int.Input(
                    "edge",
                    default=16,
                    min=0,
                    max=64,
                    optional=True,
                    tooltip="For original: how wide the soft edge is between the new part and the old picture, in pixels of "
                    "the drawn picture.",
                ),
                SAMPLING,
            ],
            outputs=OUTPUTS,
        )

    @classmethod
    @inputs.checked
    def execute(
        cls,
        janus: HostedJanus,
        tokens: ImageTokens,
        mask: torch.Tensor,
        prompt: str,
        *,
        seed: int,
        cfg: float,
        temperature: float,
        candidates: int,
        grow: int,
        original: torch.Tensor | None = None,
        fit: str = FITS[0],
        edge: int = 16,
        sampling: SamplingSettings | None = None,
    ) -> io.NodeOutput:
        if original is not None:
            original = check_images(over_white(original))
            if len(original) != len(tokens):
                raise InputError(
                    f"There are {len(original)} original pictures and tokens of {len(tokens)}: connect as many of each."
                )
            mask = as_fitted(mask, original, janus.core.size, fit)
        codes = code_mask(mask, tokens.grid, grow=grow)
        # Sequential drawing would take a step for each token that stays; jacobi reads many of them at once.
        settings = {"sampler": "jacobi"} | drawing_settings(cfg, temperature, sampling)
        preview = ready_to_draw(janus, janus.core.drawing_need(prompt, len(tokens) * candidates, **settings))
        progress = canvas.progress(preview=preview)
        new = repaint(
            janus.core, tokens, codes, prompt, candidates=candidates, seed=seed, progress=progress, **settings
        )
        pictures = janus.decode(new)
        if original is not None:
            pictures = pasted(original, pictures, codes, fit=fit, edge=edge)
        shown = {"janus_pictures": thumbnails(pictures, seed), "janus_masks": [rows_of(one) for one in codes]}
        return io.NodeOutput(pictures, new, ui=shown)


def rows_of(codes: torch.Tensor) -> list[str]:
    """A mask of codes, bool [h, w], as text: a row of 0 and 1 each."""
    return ["".join(str(int(code)) for code in row) for row in codes.tolist()]


def as_fitted(mask: torch.Tensor, original: torch.Tensor, size: tuple[int, int], fit: str) -> torch.Tensor:
    """A mask of the original's size as the model sees it; one of another size is taken as the model's own."""
    mask = mask[None] if mask.ndim == 2 else mask
    if fit == "stretch" or mask.shape[1:] != original.shape[1:3]:
        return mask
    rows, columns, top, left = fitted_box((original.shape[1], original.shape[2]), size, fit)
    if fit == "crop":
        return mask[:, top : top + rows, left : left + columns]
    scaled = torch.nn.functional.adaptive_max_pool2d(mask[:, None], (rows, columns))[:, 0]
    return torch.nn.functional.pad(scaled, (left, size[1] - left - columns, top, size[0] - top - rows))


class JanusVariations(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusVariations",
            display_name="Janus Variations",
            category="Janus",
            description="Draws a picture again, near to the one it starts from: its structure stays, and what the prompt "
            "says changes.",
            **inputs.search_aliases("image to image", "img2img", "variation", "restyle", "strength"),
            **inputs.shown_from_cache(),
            inputs=[
                inputs.MODEL,
                TOKENS,
                PROMPT,
                io.Float.Input(
                    "strength",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far to go from the picture. 0 keeps it token for token, 1 draws a new one that knows "
                    "nothing of it.",
                ),
                SEED,
                inputs.CFG,
                inputs.DRAWING_TEMPERATURE,
                SAMPLING,
            ],
            outputs=OUTPUTS,
        )

    @classmethod
    @inputs.checked
    def execute(
        cls,
        janus: HostedJanus,
        tokens: ImageTokens,
        prompt: str,
        *,
        strength: float,
        seed: int,
        cfg: float,
        temperature: float,
        sampling: SamplingSettings | None = None,
    ) -> io.NodeOutput:
        settings = drawing_settings(cfg, temperature, sampling)
        preview = ready_to_draw(janus, janus.core.drawing_need(prompt, len(tokens), **settings))
        progress = canvas.progress(preview=preview)
        new = vary(janus.core, tokens, prompt, strength=strength, seed=seed, progress=progress, **settings)
        pictures = janus.decode(new)
        return io.NodeOutput(pictures, new, ui={"janus_pictures": thumbnails(pictures, seed)})
