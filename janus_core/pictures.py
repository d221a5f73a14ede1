"""Pictures as tensors: reading, checks, 8-bit conversion, transparency, fitting, and SigLIP's preprocessing.

A picture is float [H, W, 3], red, green and blue in 0..1, as in ComfyUI.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from .errors import InputError

MIN_SIDE = 14  # pixels, as in the original's preprocessing
FITS = ("crop", "pad", "stretch")


@dataclass(frozen=True)
class Normalisation:
    """How pixels are scaled for SigLIP, per channel: (x / 255 - mean) / std."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def check_images(images: Tensor) -> Tensor:
    """Return pictures float [N, H, W, 3] unchanged; raise InputError for any other shape, an empty batch, or NaN."""
    if not images.is_floating_point() or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise InputError(
            f"The pictures have shape {list(images.shape)} and type {images.dtype}: give one or more as floats "
            "[N, height, width, 3], red, green and blue from 0 to 1."
        )
    if not bool(torch.isfinite(images).all()):
        raise InputError("The picture has NaN or infinite values: check the node or step that produced it.")
    return images


def to_uint8(pictures: Tensor) -> Tensor:
    """Pictures float [..., H, W, 3] -> uint8 by rounding, so that converting to float and back is exact."""
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8)


def from_uint8(pictures: np.ndarray | Tensor) -> Tensor:
    """Pictures uint8 [..., H, W, 3] -> float32 in 0..1."""
    return torch.as_tensor(pictures).float() / 255


def to_pil(picture: Tensor) -> Image.Image:
    """Picture float [H, W, 3] -> 8-bit PIL, by rounding."""
    return Image.fromarray(to_uint8(picture).cpu().numpy())


def over_white(images: Tensor) -> Tensor:
    """Pictures [..., H, W, 4] with transparency, laid over white -> [..., H, W, 3]; others are returned unchanged."""
    if images.shape[-1:] != (4,):
        return images
    alpha = images[..., 3:]
    return images[..., :3] * alpha + (1 - alpha)


def fitted_box(height_width: tuple[int, int], size: tuple[int, int], how: str) -> tuple[int, int, int, int]:
    """(rows, columns, top, left) of what `fitted` uses: "crop" of the picture, "pad" in the result, "stretch" all of it."""
    height, width = height_width
    if how == "crop":
        rows = min(height, max(1, round(width * size[0] / size[1])))
        columns = min(width, max(1, round(height * size[1] / size[0])))
        return rows, columns, (height - rows) // 2, (width - columns) // 2
    if how == "pad":
        scale = min(size[0] / height, size[1] / width)
        rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
        return rows, columns, (size[0] - rows) // 2, (size[1] - columns) // 2
    return height, width, 0, 0


def fitted(images: Tensor, size: tuple[int, int], how: str) -> Tensor:
    """Pictures float [N, H, W, 3] at a `size` (height, width), float32 in 0..1; those that have it keep every pixel.

    `how` is one of FITS: "crop" cuts off what is too long, equally at both ends, "pad" adds white there instead, and
    "stretch" changes the proportions. Scaling is bicubic with antialiasing. Raises InputError for another `how`.
    """
    if how not in FITS:
        raise InputError(f"There is no way {how!r} to fit a picture: choose {', '.join(FITS)}.")
    rows, columns, top, left = fitted_box((images.shape[1], images.shape[2]), size, how)
    if how == "crop":  # before scaling, to the proportions of `size`
        images = images[:, top : top + rows, left : left + columns]
    scaled = (rows, columns) if how == "pad" else size
    images = images.float().clamp(0, 1)
    if images.shape[1:3] != scaled:
        channels_first = images.permute(0, 3, 1, 2)
        channels_first = F.interpolate(channels_first, scaled, mode="bicubic", antialias=True, align_corners=False)
        images = channels_first.permute(0, 2, 3, 1).clamp(0, 1)  # bicubic overshoots at edges
    if scaled != size:
        white = images.new_ones(len(images), *size, 3)
        white[:, top : top + rows, left : left + columns] = images
        images = white
    return images.contiguous()


def read_picture(path: Path | BytesIO) -> Image.Image:
    """A picture file, or the content of one, as RGB, upright as its camera says, with transparency laid over white. Raises InputError."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except Exception as error:  # Pillow's readers raise anything: OSError, SyntaxError, ValueError, ...
        what = path if isinstance(path, Path) else "The content"
        raise InputError(f"{what} is not a picture that can be read ({error}).") from error


def letterbox(image: Image.Image, size: int, background: tuple[int, ...]) -> Image.Image:
    """Scale the long side to `size` pixels and pad to a square, centred.

    As the original: bicubic with antialiasing, and the short side is truncated to whole pixels, not rounded.
    """
    width, height = (max(int(side / max(image.size) * size), MIN_SIDE) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    side = max(width, height)
    square = Image.new("RGB", (side, side), background)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def preprocess(images: list[Image.Image], size: int, normalisation: Normalisation) -> Tensor:
    """RGB pictures of any size -> pixels float32 [N, 3, size, size] as SigLIP was trained to see them."""
    background = tuple(int(m * 255) for m in normalisation.mean)
    squares = np.stack([np.asarray(letterbox(image, size, background)) for image in images])
    mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
    # Not from_uint8: the original multiplies by 1 / 255, which rounds otherwise than dividing.
    return ((torch.from_numpy(squares) * (1 / 255) - mean) / std).permute(0, 3, 1, 2).contiguous()
