"""Which seed drew which picture: on the canvas, and in what is saved."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..janus_core.generation.sampling import MAX_SEED

KEY = "janus_seeds"
MOST = 64  # pictures that a node draws at once


def seed_of(seed: int, picture: int) -> int:
    """The seed of one picture of a batch, with which it is drawn again alone."""
    return (seed + picture) & MAX_SEED


def thumbnails(pictures: torch.Tensor, seed: int) -> list[dict[str, Any]]:
    """Where ComfyUI serves each of [N, H, W, 3] from its temporary folder, and its seed, as text: JavaScript rounds."""
    files = ui.ImageSaveHelper.save_images(pictures, "janus", io.FolderType.temp, cls=None, compress_level=1)
    return [{**file, "seed": str(seed_of(seed, i))} for i, file in enumerate(files)]


def note_seeds(request: dict[str, Any]) -> dict[str, Any]:
    """For each drawing node of a queued prompt, write down the seeds of its pictures where PNG files keep their workflow.

    This is done when a prompt is queued, so that a picture that comes from ComfyUI's cache is saved with them too. A
    seed or batch size that comes over a link is not known then, and its node is left out.
    """
    noted = {}
    for number, node in request.get("prompt", {}).items():
        if not isinstance(node, dict):  # the server will say so
            continue
        seed, count = (node.get("inputs", {}).get(name) for name in ("seed", "batch_size"))
        if node.get("class_type") == "JanusTextToImage" and isinstance(seed, int) and isinstance(count, int):
            noted[number] = [seed_of(seed, i) for i in range(min(count, MOST))]
    if noted:
        data = request.setdefault("extra_data", {})
        data["extra_pnginfo"] = {**(data.get("extra_pnginfo") or {}), KEY: noted}
    return request
