"""How much memory a model's parts and tasks need, in bytes."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch

from .config import JanusConfig, LlamaConfig
from .errors import MemoryExhaustedError
from .generation.cache import whole_blocks
from .generation.codes import Drawing
from .generation.cpu_kernels import copied_bytes
from .generation.execution import Execution
from .generation.recorder import out_of_memory
from .model.janus import ANSWERING, DECODING, DRAWING, PARTS, JanusModel
from .model.quantised import needs_no_cast
from .precision import EIGHT_BIT, Precision
from .weights.loading import empty_model

# Tokens of a usual prompt, of a question with its picture, and of an answer.
PROMPT, QUESTION, ANSWER = 64, 640, 256
# Bytes a logit while a token is drawn. The most is alive with top_p: the noise 4, the tempered logits 4, the sorted
# probabilities 4, their order 8, that order sorted 8 and the order of this 8, a mask 1; and the logit itself, 2 or 4.
# Without top_p it is 36: the noise's 64-bit integers 4 x 8, and the logit.
SAMPLING = 40
# Maps of the largest level that are alive at once in the VQ's last residual block: the level's input, the block's input,
# the first convolution's output, its norm, and silu of that.
VQ_MAPS = 5
# Covers small tensors and allocator rounding.
MARGIN = 1.04


@contextmanager
def says_what_to_lower(task: str, cure: str, device: torch.device) -> Iterator[None]:
    """Raise MemoryExhaustedError if memory runs out in the block, and free what the block has allocated.

    The message names the `task` ("drawing a batch of 4") and says to do `cure` ("draw fewer at once").
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # their tensors would live as long as the exception
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise MemoryExhaustedError(
            f"The memory of {device} ran out while {task}: {cure}, load the model in a smaller dtype such as int8, or close "
            "other programs that use this memory."
        ) from None


@dataclass(frozen=True)
class Need:
    """What a task needs on its device: `parts` of the model, of PARTS, and `bytes` of memory beside their weights."""

    parts: tuple[str, ...]
    bytes: int

    def __add__(self, other: Need) -> Need:
        return Need(tuple(dict.fromkeys(self.parts + other.parts)), self.bytes + other.bytes)


def drawing_need(model: JanusModel, drawing: Drawing, *, precision: Precision, execution: Execution) -> Need:
    """What drawing needs on this device now: which kernels are used decides whether weights are cast or copied."""
    direct = needs_no_cast(precision.eight_bit, compute=precision.compute, device=execution.device, rows=drawing.rows)
    copies = copied_bytes(model.drawing_parts, rows=drawing.rows, device=execution.device)
    return Need(DRAWING, copies + drawing_bytes(model.config, precision, drawing, casting=not direct))


@lru_cache(maxsize=8)
def _sizes(config: JanusConfig, precision: Precision) -> dict[str, int]:
    """Bytes of each weight, by its key."""
    return {key: weight.nbytes for key, weight in empty_model(config, precision).named_parameters()}


def weight_bytes(config: JanusConfig, dtype: torch.dtype | str | Precision, modules: Iterable[str] = ("",)) -> int:
    """Bytes of the weights under the named modules ("language_model.lm_head"), or of all."""
    under = tuple(name and f"{name}." for name in modules)
    return sum(size for key, size in _sizes(config, Precision.of(dtype)).items() if key.startswith(under))


def part_bytes(config: JanusConfig, dtype: torch.dtype | str | Precision, parts: Iterable[str]) -> int:
    """Bytes of the weights of some of PARTS."""
    return weight_bytes(config, dtype, [name for part in parts for name in PARTS[part]])


def total_drawing_bytes(config: JanusConfig, dtype: torch.dtype | str | Precision, pictures: int) -> int:
    """Bytes of weights and work for drawing `pictures` at once from a usual prompt; the VQ's turn comes afterwards."""
    drawing = Drawing(prompt=[0] * PROMPT, pad=0, steps=math.prod(config.grid), count=pictures)
    return max(
        part_bytes(config, dtype, DRAWING) + drawing_bytes(config, dtype, drawing),
        part_bytes(config, dtype, DECODING) + decoding_bytes(config, dtype, pictures=pictures),
    )


def total_answering_bytes(config: JanusConfig, dtype: torch.dtype | str | Precision, pictures: int) -> int:
    """Bytes of weights and work for a usual answer about each of `pictures` at once."""
    work = answering_bytes(config, dtype, rows=pictures, prompt=QUESTION, new=ANSWER, pictures=pictures)
    return part_bytes(config, dtype, ANSWERING) + work


def fitting_precision(
    config: JanusConfig, *, compute: torch.dtype, stored_dtype: str | None, memory: float
) -> Precision:
    """The precision for dtype "auto". `compute` is the device's fastest float type, `memory` its free bytes.

    The 8-bit `stored_dtype` of a file; else `compute` if one picture can be drawn and described in that memory; else
    int8.
    """
    if stored_dtype in EIGHT_BIT:
        return Precision(compute, EIGHT_BIT[stored_dtype])
    exact = Precision(compute)
    fits = max(total_drawing_bytes(config, exact, 1), total_answering_bytes(config, exact, 1)) <= memory
    return exact if fits else Precision(compute, torch.int8)


def cache_bytes(config: LlamaConfig, compute: torch.dtype, *, rows: int, length: int) -> int:
    """Bytes of a KV cache for `rows` sequences of `length` tokens."""
    keys_and_values = 2 * config.num_hidden_layers * config.hidden_size
    return keys_and_values * rows * length * compute.itemsize


def layer_bytes(config: LlamaConfig, precision: Precision, tokens: int, *, casting: bool = True) -> int:
    """Peak activation bytes of one transformer layer, for `tokens` in total.

    With `casting`, 8-bit weights are cast as they are used.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    # Alive throughout: the embeddings, the layer's input, and the normed input of attention or of the MLP.
    throughout = 3 * hidden
    # qkv; then of q and k the product with cos, the swapped halves, and the product of these with sin.
    attention = throughout + (3 + 2 + 2 + 2) * hidden
    # The residual after attention; gate and up together, silu of gate, and its product with up.
    residual = throughout + hidden
    mlp = residual + (2 + 1 + 1) * inner
    numbers = tokens * max(mlp, attention)
    if precision.eight_bit is not None and casting:
        gate_and_up = 2 * hidden * inner  # the largest weight
        copies = 2 if precision.compute == torch.float16 else 1  # scaled down there, see `scaled_linear`
        numbers = max(numbers, copies * gate_and_up + tokens * (residual + 2 * inner))
    return precision.compute.itemsize * numbers


def drawing_bytes(
    config: JanusConfig, dtype: torch.dtype | str | Precision, drawing: Drawing, *, casting: bool = True
) -> int:
    """Peak bytes beside the weights for a drawing.

    `casting` is whether 8-bit weights are cast to be used: see `quantised.needs_no_cast`.
    """
    precision, llama, codes = Precision.of(dtype), config.llama, config.vq.codebook_size
    compute, size = precision.compute, precision.compute.itemsize
    lengths, prompt, window = [len(prefix) for prefix in drawing.prefixes], drawing.length, drawing.window
    prefixes, sequences = len(lengths), drawing.guides * drawing.count
    # The prefill: the prefixes' own cache, one layer, and where they differ in length a mask, bool and as added to the scores.
    prefix_cache = cache_bytes(llama, compute, rows=prefixes, length=whole_blocks(prompt))
    masks = prefixes * prompt**2 * (1 + size) if min(lengths) < prompt else 0
    prefill = prefix_cache + masks + layer_bytes(llama, precision, prefixes * prompt)
    # The copy of the prefixes to all rows: of the keys, then of the values, beside the hidden states and embeddings.
    repeated = cache_bytes(llama, compute, rows=sequences, length=whole_blocks(prompt)) // 2
    copying = prefix_cache + repeated + 2 * prefixes * prompt * llama.hidden_size * size
    # A step, at its largest: one layer; or the head with its two activations and logits; or sampling; or moving one
    # layer's keys as a CPU cache grows.
    length = prompt + drawing.steps - 1 + (window + 1 if window > 1 else 0)
    cache = cache_bytes(llama, compute, rows=sequences, length=whole_blocks(length))
    layer = layer_bytes(llama, precision, drawing.rows, casting=casting)
    head = drawing.rows * (2 * config.gen_head_width + codes) * size
    sampling = codes * (drawing.count * window * SAMPLING + drawing.rows * size)  # beside all prefixes' logits
    cache_move = cache // (2 * llama.num_hidden_layers)
    features = 0 if drawing.features is None else drawing.features.nbytes
    return features + int(MARGIN * max(prefill, cache + max(copying, layer, head, sampling, cache_move)))


def answering_bytes(
    config: JanusConfig, dtype: torch.dtype | str | Precision, *, rows: int, prompt: int, new: int, pictures: int
) -> int:
    """Peak bytes beside the weights for answering `rows` prompts of `prompt` tokens with up to `new` tokens each.

    `pictures` are those of all prompts together, whose tokens are counted in `prompt`.
    """
    precision, llama, vision = Precision.of(dtype), config.llama, config.vision
    size = precision.compute.itemsize
    # SigLIP: the pixels, three activations of its width, and its MLP's two of the inner width.
    inner = int(vision.width * vision.mlp_ratio)
    pixels = pictures * 3 * vision.image_size**2 * size
    activations = pictures * vision.tokens * (3 * vision.width + 2 * inner) * size
    cast_weight = inner * vision.width * size if precision.eight_bit else 0
    # The prompt: pixels and features still alive, the cache, and one layer, or the head on the last tokens.
    features = pictures * vision.tokens * llama.hidden_size * size
    embeddings = rows * prompt * llama.hidden_size * size
    masks = rows * prompt**2 * (1 + size) if rows > 1 else 0  # bool, and as added to the scores
    prompt_layer = embeddings + masks + layer_bytes(llama, precision, rows * prompt)
    head = 2 * embeddings + rows * llama.vocab_size * SAMPLING  # the prompt's hidden states beside them
    cache = cache_bytes(llama, precision.compute, rows=rows, length=whole_blocks(prompt + new - 1))
    return int(MARGIN * max(pixels + activations + cast_weight, pixels + features + cache + max(prompt_layer, head)))


def decoded_at_once(config: JanusConfig, grid: tuple[int, int]) -> int:
    """How many pictures of `grid` (h, w) are decoded together: as many as have no more codes than one of the model's own."""
    return max(1, math.prod(config.grid) // math.prod(grid))


def decoding_bytes(
    config: JanusConfig, dtype: torch.dtype | str | Precision, *, pictures: int, grid: tuple[int, int] | None = None
) -> int:
    """Peak bytes beside the weights for turning codes of `grid` (h, w) into pictures, or pictures into codes."""
    vq, size = config.vq, Precision.of(dtype).vq.itemsize
    h, w = grid or config.grid
    levels = enumerate(reversed(vq.ch_mult))
    together = min(pictures, decoded_at_once(config, (h, w)))
    largest = together * max(h * w * 4**i * vq.ch * width for i, width in levels) * size
    pixels = pictures * 3 * h * w * vq.downsampling**2 * 4  # float32
    assembling = 3 * pixels  # joined, scaled, and with the channels moved last
    return int(MARGIN * max(VQ_MAPS * largest + pixels, assembling))
