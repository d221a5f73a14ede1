"""How many bytes a model's parts and its work take, computed from the config before anything is loaded or run."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch

from .config import JanusConfig, LlamaConfig
from .precision import EIGHT_BIT, Precision
from .weights.loading import empty_model

# What is moved together, because it is used together. The word embeddings are in none: a host may leave their table
# where it lies, for only the rows of a prompt's words, and of each word of an answer, are ever looked up.
PARTS = {
    "Understanding": ("vision_model", "aligner"),
    "Language": ("language_model.model.layers", "language_model.model.norm"),
    "TextHead": ("language_model.lm_head",),
    "PictureHead": ("gen_embed", "gen_aligner", "gen_head"),
    "VQ": ("gen_vision_model",),
}
DRAWING = ("Language", "PictureHead")
ANSWERING = ("Understanding", "Language", "TextHead")
DECODING = ("VQ",)
# Tokens of a usual prompt, of a question with its picture, and of an answer.
PROMPT, QUESTION, ANSWER = 64, 640, 256
# Bytes that drawing one code or word needs for each logit: as it comes, in float32, and noise in 64-bit integers.
SAMPLING = 40
# Maps of the largest level that are alive at once inside the VQ's last residual block.
VQ_MAPS = 5
# For what is too small to be counted one by one, and for allocators that round up.
MARGIN = 1.04


@lru_cache(maxsize=8)
def _sizes(config: JanusConfig, precision: Precision) -> dict[str, int]:
    """Bytes of each weight, by its key."""
    weights = empty_model(config, precision).named_parameters()
    return {key: weight.numel() * weight.itemsize for key, weight in weights}


def weight_bytes(config: JanusConfig, dtype: torch.dtype | str | Precision, modules: Iterable[str] = ("",)) -> int:
    """Bytes of the weights under the named modules ("language_model.lm_head"), or of all."""
    under = tuple(name and f"{name}." for name in modules)
    return sum(size for key, size in _sizes(config, Precision.of(dtype)).items() if key.startswith(under))


def part_bytes(config: JanusConfig, dtype: torch.dtype | str | Precision, parts: Iterable[str]) -> int:
    """Bytes of the weights of some of PARTS."""
    return weight_bytes(config, dtype, [name for part in parts for name in PARTS[part]])


def peak_drawing(config: JanusConfig, dtype: torch.dtype | str | Precision, pictures: int) -> int:
    """Bytes of weights and work for drawing `pictures` at once from a usual prompt; the VQ takes its turn afterwards."""
    drawing = part_bytes(config, dtype, DRAWING) + drawing_bytes(config, dtype, pictures, PROMPT)
    return max(drawing, part_bytes(config, dtype, DECODING) + decoding_bytes(config, dtype, pictures))


def peak_answering(config: JanusConfig, dtype: torch.dtype | str | Precision, pictures: int) -> int:
    """Bytes of weights and work for a usual answer about each of `pictures` at once."""
    return part_bytes(config, dtype, ANSWERING) + describing_bytes(config, dtype, pictures, QUESTION, ANSWER)


def fitting_precision(config: JanusConfig, compute: torch.dtype, written: str | None, memory: float) -> Precision:
    """What "auto" stands for on a device that computes best in `compute` and has `memory` bytes to give.

    The 8 bits that a file was `written` in; else `compute` where one picture can be drawn and described in that memory,
    and int8 where not, so that all of it fits or the least has to be moved.
    """
    if written in EIGHT_BIT:
        return Precision(compute, EIGHT_BIT[written])
    exact = Precision(compute)
    fits = max(peak_drawing(config, exact, 1), peak_answering(config, exact, 1)) <= memory
    return exact if fits else Precision(compute, torch.int8)


def cache_bytes(config: LlamaConfig, compute: torch.dtype, rows: int, length: int) -> int:
    """Bytes of a KV cache for `rows` of `length` tokens."""
    return 2 * config.num_hidden_layers * config.hidden_size * rows * length * compute.itemsize


def layer_bytes(config: LlamaConfig, precision: Precision, tokens: int, casting: bool = True) -> int:
    """Bytes of what is alive at once in the largest moment of one transformer layer over `tokens` in all rows.

    8-bit weights are cast as they are used, if `casting`; the largest is gate and up, before their outputs are combined.
    """
    hidden, wide, size = config.hidden_size, config.intermediate_size, precision.compute.itemsize
    moments = [4 * wide + 4 * hidden, 12 * hidden]
    if precision.eight_bit is not None and casting:
        weights = 2 if precision.compute == torch.float16 else 1  # scaled down there, see `scaled_linear`
        return size * max(tokens * max(moments), tokens * (2 * wide + 4 * hidden) + weights * 2 * hidden * wide)
    return size * tokens * max(moments)


def drawing_bytes(
    config: JanusConfig,
    dtype: torch.dtype | str | Precision,
    pictures: int,
    prompt: int,
    guided: bool = True,
    window: int = 1,
    casting: bool = True,
) -> int:
    """Peak bytes beside the weights for drawing `pictures` at once from a prompt of `prompt` tokens.

    `guided` is false at CFG weight 1, which needs half the rows; `window` is how many codes jacobi looks ahead.
    `casting` is whether 8-bit weights are cast to be used: see `quantised.needs_no_cast`.
    """
    precision, llama = Precision.of(dtype), config.llama
    codes = config.grid[0] * config.grid[1]
    prefixes = 2 if guided else 1
    rows = prefixes * pictures
    copying = cache_bytes(llama, precision.compute, prefixes, prompt)
    copying += cache_bytes(llama, precision.compute, rows, prompt) // 2
    copying += 2 * prefixes * prompt * llama.hidden_size * precision.compute.itemsize
    length = prompt + codes - 1 + (window + 1 if window > 1 else 0)
    step = layer_bytes(llama, precision, rows * window, casting)
    head = rows * window * (config.gen_head_width * 2 + config.vq.codebook_size) * precision.compute.itemsize
    head = max(head, pictures * window * config.vq.codebook_size * SAMPLING)
    cache = cache_bytes(llama, precision.compute, rows, length)
    spreading = cache // (2 * llama.num_hidden_layers)  # a layer's keys, as more slots are made
    drawing = cache + max(copying, step, head, spreading)
    reading = cache_bytes(llama, precision.compute, prefixes, prompt) + layer_bytes(llama, precision, prefixes * prompt)
    return int(MARGIN * max(drawing, reading))


def describing_bytes(
    config: JanusConfig,
    dtype: torch.dtype | str | Precision,
    rows: int,
    prompt: int,
    new: int,
    pictures: int | None = None,
) -> int:
    """Peak bytes beside the weights for answering `rows` prompts of `prompt` tokens with up to `new` tokens each.

    The prompts' tokens count those that stand for pictures, of which there are `pictures` in all (one a row).
    """
    precision, llama, vision = Precision.of(dtype), config.llama, config.vision
    size = precision.compute.itemsize
    pictures = rows if pictures is None else pictures
    hidden = int(vision.width * vision.mlp_ratio)
    pixels = pictures * 3 * vision.image_size**2 * size
    cast = hidden * vision.width * size if precision.eight_bit else 0
    seeing = pixels + pictures * vision.tokens * (3 * vision.width + 2 * hidden) * size + cast
    features = pixels + pictures * vision.tokens * llama.hidden_size * size
    masks = rows * prompt**2 * (1 + size) if rows > 1 else 0
    reading = masks + layer_bytes(llama, precision, rows * prompt)
    reading += rows * prompt * llama.hidden_size * size
    head = rows * prompt * llama.hidden_size * size * 2 + rows * llama.vocab_size * SAMPLING
    answering = cache_bytes(llama, precision.compute, rows, prompt + new - 1) + max(reading, head)
    return int(MARGIN * max(seeing, features + answering))


def decoding_bytes(
    config: JanusConfig, dtype: torch.dtype | str | Precision, pictures: int, grid: tuple[int, int] | None = None
) -> int:
    """Peak bytes beside the weights for turning codes of `grid` (h, w) into pictures, or pictures into codes."""
    vq, size = config.vq, Precision.of(dtype).vq.itemsize
    h, w = grid or config.grid
    levels = enumerate(reversed(vq.ch_mult))
    maps = VQ_MAPS * max(h * w * 4**i * vq.ch * m for i, m in levels) * size
    pixels = pictures * 3 * h * w * vq.downsampling**2 * 4
    return int(MARGIN * max(maps + pixels, 3 * pixels))
