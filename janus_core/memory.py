"""How many bytes a model's parts and its work take, computed from the config before anything is loaded or run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch

from .config import JanusConfig, LlamaConfig
from .generation.cache import whole_blocks
from .generation.cpu_kernels import copied_bytes
from .generation.execution import Execution
from .generation.image import Drawing
from .model.janus import JanusModel
from .model.quantised import needs_no_cast
from .precision import EIGHT_BIT, Precision
from .weights.loading import empty_model

# What is moved together, because it is used together. No part holds the text embeddings: a host may keep their table in
# system memory, because only the rows of a prompt's tokens, and of each token of an answer, are read.
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
# Bytes a logit while a token is drawn: the logit itself, its float32 copies, and the noise in 64-bit integers.
SAMPLING = 40
# Maps of the largest level that are alive at once in the VQ's last residual block.
VQ_MAPS = 5
# For what is too small to be counted, and for allocators that round up.
MARGIN = 1.04


@dataclass(frozen=True)
class Need:
    """What a task needs on its device: `parts` of the model, of PARTS, and `bytes` of memory beside their weights."""

    parts: tuple[str, ...]
    bytes: int

    def __add__(self, other: Need) -> Need:
        return Need(tuple(dict.fromkeys(self.parts + other.parts)), self.bytes + other.bytes)


def drawing_need(model: JanusModel, precision: Precision, execution: Execution, drawing: Drawing) -> Need:
    """What drawing needs on this device now: how its layers will compute decides over casts and copies."""
    size = drawing_bytes(
        model.config,
        precision,
        drawing.count,
        len(drawing.prompt),
        guided=len(drawing.prefixes) == 2,
        window=drawing.window,
        casting=not needs_no_cast(precision.eight_bit, precision.compute, execution.device, drawing.rows),
    )
    return Need(DRAWING, size + copied_bytes(model.drawing_parts, drawing.rows, execution.device))


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
    """Bytes of weights and work for drawing `pictures` at once from a usual prompt; the VQ's turn comes afterwards."""
    drawing = part_bytes(config, dtype, DRAWING) + drawing_bytes(config, dtype, pictures, PROMPT)
    return max(drawing, part_bytes(config, dtype, DECODING) + decoding_bytes(config, dtype, pictures))


def peak_answering(config: JanusConfig, dtype: torch.dtype | str | Precision, pictures: int) -> int:
    """Bytes of weights and work for a usual answer about each of `pictures` at once."""
    return part_bytes(config, dtype, ANSWERING) + describing_bytes(config, dtype, pictures, QUESTION, new=ANSWER)


def fitting_precision(config: JanusConfig, compute: torch.dtype, written: str | None, memory: float) -> Precision:
    """What "auto" stands for on a device that computes best in `compute` and has `memory` bytes to give.

    The 8-bit type that a file was `written` in; else `compute` where one picture can be drawn and described in that
    memory, and int8 where not, so that all of it fits or as little as possible has to be moved.
    """
    if written in EIGHT_BIT:
        return Precision(compute, EIGHT_BIT[written])
    exact = Precision(compute)
    fits = max(peak_drawing(config, exact, 1), peak_answering(config, exact, 1)) <= memory
    return exact if fits else Precision(compute, torch.int8)


def cache_bytes(config: LlamaConfig, compute: torch.dtype, rows: int, length: int) -> int:
    """Bytes of a KV cache for `rows` sequences of `length` tokens."""
    keys_and_values = 2 * config.num_hidden_layers * config.hidden_size
    return keys_and_values * rows * whole_blocks(length) * compute.itemsize


def layer_bytes(config: LlamaConfig, precision: Precision, tokens: int, *, casting: bool = True) -> int:
    """Bytes alive at once in the largest moment of one transformer layer over `tokens` in all rows.

    With `casting`, 8-bit weights are cast as they are used.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    residual_and_norms = 4 * hidden
    mlp = 4 * inner + residual_and_norms  # gate and up together, silu of gate, their product
    attention = 12 * hidden  # qkv, rotated q and k with their halves, v, the output, and the residual
    numbers = tokens * max(mlp, attention)
    if precision.eight_bit is not None and casting:
        gate_and_up = 2 * hidden * inner  # the largest weight
        copies = 2 if precision.compute == torch.float16 else 1  # scaled down there, see `scaled_linear`
        numbers = max(numbers, copies * gate_and_up + tokens * (2 * inner + residual_and_norms))
    return precision.compute.itemsize * numbers


def drawing_bytes(
    config: JanusConfig,
    dtype: torch.dtype | str | Precision,
    pictures: int,
    prompt: int,
    *,
    guided: bool = True,
    window: int = 1,
    casting: bool = True,
) -> int:
    """Peak bytes beside the weights for drawing `pictures` at once from a prompt of `prompt` tokens.

    `guided` is false at CFG weight 1, which needs half the rows; `window` is how many codes a pass of jacobi reads.
    `casting` is whether 8-bit weights are cast to be used: see `quantised.needs_no_cast`.
    """
    precision, llama, codes = Precision.of(dtype), config.llama, config.vq.codebook_size
    size = precision.compute.itemsize
    prefixes = 2 if guided else 1
    rows = prefixes * pictures
    # The prefill: the prefixes' own cache, and a layer at work on them.
    prefix_cache = cache_bytes(llama, precision.compute, prefixes, prompt)
    prefill = prefix_cache + layer_bytes(llama, precision, prefixes * prompt)
    # The copy of the prefixes to all rows: of the keys, then of the values, beside the hidden states and embeddings.
    repeated = cache_bytes(llama, precision.compute, rows, prompt) // 2
    copying = prefix_cache + repeated + 2 * prefixes * prompt * llama.hidden_size * size
    # A step: a layer at work, or the head with its two inner activations and its logits, or a code being drawn, or a
    # CPU's cache as it grows, one layer's keys at a time.
    length = prompt + config.grid[0] * config.grid[1] - 1 + (window + 1 if window > 1 else 0)
    cache = cache_bytes(llama, precision.compute, rows, length)
    layer = layer_bytes(llama, precision, rows * window, casting=casting)
    head = rows * window * (2 * config.gen_head_width + codes) * size
    sampling = pictures * window * codes * SAMPLING
    growing = cache // (2 * llama.num_hidden_layers)
    return int(MARGIN * max(prefill, cache + max(copying, layer, head, sampling, growing)))


def describing_bytes(
    config: JanusConfig,
    dtype: torch.dtype | str | Precision,
    rows: int,
    prompt: int,
    *,
    new: int,
    pictures: int | None = None,
) -> int:
    """Peak bytes beside the weights for answering `rows` prompts of `prompt` tokens with up to `new` tokens each.

    The prompts' tokens include those that stand for pictures, of which there are `pictures` in all (one a row).
    """
    precision, llama, vision = Precision.of(dtype), config.llama, config.vision
    size = precision.compute.itemsize
    pictures = rows if pictures is None else pictures
    # SigLIP: the pixels, three activations of its width, and its MLP's two of the inner width.
    inner = int(vision.width * vision.mlp_ratio)
    pixels = pictures * 3 * vision.image_size**2 * size
    activations = pictures * vision.tokens * (3 * vision.width + 2 * inner) * size
    cast_weight = inner * vision.width * size if precision.eight_bit else 0
    seeing = pixels + activations + cast_weight
    # The prompt: pixels and features still alive, the cache, and a layer at work, or the head on the last tokens.
    features = pictures * vision.tokens * llama.hidden_size * size
    embeddings = rows * prompt * llama.hidden_size * size
    masks = rows * prompt**2 * (1 + size) if rows > 1 else 0  # bool, and as added to the scores
    reading = embeddings + masks + layer_bytes(llama, precision, rows * prompt)
    head = 2 * embeddings + rows * llama.vocab_size * SAMPLING  # the prompt's hidden states beside them
    cache = cache_bytes(llama, precision.compute, rows, prompt + new - 1)
    return int(MARGIN * max(seeing, pixels + features + cache + max(reading, head)))


def decoding_bytes(
    config: JanusConfig, dtype: torch.dtype | str | Precision, pictures: int, grid: tuple[int, int] | None = None
) -> int:
    """Peak bytes beside the weights for turning codes of `grid` (h, w) into pictures, or pictures into codes."""
    vq, size = config.vq, Precision.of(dtype).vq.itemsize
    h, w = grid or config.grid
    levels = enumerate(reversed(vq.ch_mult))
    largest = max(h * w * 4**i * vq.ch * width for i, width in levels) * size
    pixels = pictures * 3 * h * w * vq.downsampling**2 * 4  # float32
    at_work = VQ_MAPS * largest + pixels
    finishing = 3 * pixels  # joined, scaled, and with the channels moved last
    return int(MARGIN * max(at_work, finishing))
