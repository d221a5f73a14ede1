"""Pictures and an upscaler that the tests and the shipped workflows load from ComfyUI's folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """A sky, a hill and grain; the seed picks the colours."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    hill = y > 0.35 + 0.1 * np.sin(9 * x + seed)
    colours = noise.uniform(40, 215, (2, 3))
    picture = np.where(hill[..., None], colours[0] * (1.2 - y[..., None]), colours[1] * (0.8 + 0.4 * y[..., None]))
    return Image.fromarray((picture + noise.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8))


def write_input_pictures(folder: Path) -> None:
    """Fill ComfyUI's input folder."""
    photograph(320, 240, 0).save(folder / "example.png")
    photograph(333, 217, 1).save(folder / "wide.jpg", quality=90)
    photograph(333, 217, 1).save(folder / "wide.png")  # read alike by every version of ComfyUI
    photograph(61, 250, 2).save(folder / "tall.png")
    for i in range(3):
        photograph(120, 90, 10 + i).save(folder / f"batch_{i}.png")
    see_through = photograph(120, 90, 4)
    see_through.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 120).astype(np.uint8), (90, 1))))
    see_through.save(folder / "see_through.png")


def write_upscaler(folder: Path) -> None:
    """Write an untrained ESRGAN that doubles a picture's size, in the usual file layout."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=1, scale=2)
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "doubler.safetensors")
