"""Pictures, an upscaler and a diffusion checkpoint that the tests and the shipped workflows load from ComfyUI's folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from prepare import comfyui_folder
from safetensors.torch import save_file

# What the shipped workflows have instead for a diffusion checkpoint that takes a second on a CPU.
SMALL_DIFFUSION: dict[str, dict[str, int]] = {
    "KSampler": {"steps": 1},
    "ImageScale": {"width": 64, "height": 64},
    "EmptyLatentImage": {"width": 64, "height": 64},
}
DIFFUSION = "v1-5-pruned-emaonly-fp16.safetensors"


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
    masked, alpha = photograph(320, 240, 0), Image.new("L", (320, 240), 255)
    alpha.paste(0, (140, 100, 200, 150))  # as the mask editor saves what is painted
    masked.putalpha(alpha)
    masked.save(folder / "masked.png")


def write_upscaler(folder: Path) -> None:
    """Write an untrained ESRGAN that doubles a picture's size, in the usual file layout."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=1, scale=2)
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "doubler.safetensors")


def write_checkpoint(folder: Path) -> None:
    """Write a small random diffusion checkpoint with the name that the shipped workflows ask for."""
    folder.mkdir(parents=True)
    subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, Path(__file__).with_name("small_diffusion.py"), folder / DIFFUSION],
        cwd=comfyui_folder(),
        env=os.environ | {"PYTHONPATH": "."},
        check=True,
    )
