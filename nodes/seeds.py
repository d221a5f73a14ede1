"""The seed of each picture of a batch: on the canvas, and in the metadata of saved PNG files."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..janus_core.generation.sampling import MAX_SEED
from . import replacements

KEY = "janus_seeds"
MAX_BATCH = 64  # pictures that a node draws at once
DRAWING_NODES = ("JanusTextToImage", "JanusRepaint", "JanusVariations")


def seed_of(seed: int, picture: int) -> int:
    """The seed that draws one picture of a batch again, alone."""
    return (seed + picture) & MAX_SEED


def thumbnails(
    pictures: torch.Tensor,
    seed: int | None = None,
    *,
    seeds: Sequence[int] | None = None,
    notes: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """For each of the pictures [N, H, W, 3], a temporary file that ComfyUI serves, the seed if there is one, and a note.

    `seed` is the first picture's, `seeds` are those of all. They are text, as JavaScript rounds numbers above 2^53.
    """
    files = picture_files(pictures)
    if seed is not None:
        seeds = [seed_of(seed, i) for i in range(len(files))]
    return [
        {**file} | ({"seed": str(seeds[i])} if seeds else {}) | ({"note": notes[i]} if notes else {})
        for i, file in enumerate(files)
    ]


def picture_files(pictures: torch.Tensor) -> list[dict[str, Any]]:
    """For each of the pictures [N, H, W, 3], a temporary file that ComfyUI serves."""
    saved = ui.ImageSaveHelper.save_images(pictures, "janus", io.FolderType.temp, cls=None, compress_level=1)
    return [{**file} for file in saved]


def add_seeds_to_metadata(request: dict[str, Any]) -> dict[str, Any]:
    """Add the seeds of each drawing node's pictures to a request's metadata, which PNG files keep beside the workflow.

    This happens when a prompt is queued, so that pictures from ComfyUI's cache are saved with their seeds too. A node
    whose seed or batch size comes from another node is left out: its value is not known yet. How many pictures a repainting
    node gets is not known either, so of those it is the first one's seed.
    """
    seeds = {}
    for number, node in request.get("prompt", {}).items():
        if replacements.kind_of(node) in DRAWING_NODES:
            given = node.get("inputs", {})
            seed, count = given.get("seed"), given.get("batch_size", 1)
            if isinstance(seed, int) and isinstance(count, int):
                seeds[number] = [seed_of(seed, i) for i in range(min(count, MAX_BATCH))]
    if seeds:
        data = request.setdefault("extra_data", {})
        data["extra_pnginfo"] = {**(data.get("extra_pnginfo") or {}), KEY: seeds}
    return request
