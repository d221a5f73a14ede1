"""A decode step on a CUDA device with Triton kernels for everything between its matrix products.

Launching PyTorch's small kernels takes longer than they run, so each kernel here does in one launch what PyTorch does in
several. Sums are in float32 and results are rounded where PyTorch rounds them, but not in between; float64 stays exact.
"""

# pyright: reportIndexIssue=false
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from ..model.llama import Llama
from ..model.quantised import QuantisedLinear
from .cache import DeviceCache
from .sampling import GOLDEN32
from .triton_programs import (
    add_norm_kernel,
    attend_kernel,
    draw_kernel,
    int8_linear_kernel,
    join_kernel,
    rotate_and_write_kernel,
    silu_mul_kernel,
)

SPLIT = 64  # slots of the cache that one program of attention reads
LEAST_SPLITS = 16  # the block that joins splits is never smaller, so that most prompts share one compiled kernel
INNER = 1024  # numbers of an MLP's inner layer that one program computes
CODES = 2048  # codes that a program draws from at a time
INT8_ROWS = 4  # with more rows, a cast and a matrix product is the better way
PRODUCTS = 8  # of an int8 layer, rows x outputs, that one program computes
INPUTS = 512  # numbers of its input that a program multiplies at a time


def decode(llama: Llama, x: Tensor, rope: tuple[Tensor, Tensor], slots: Tensor, end: int, cache: DeviceCache) -> Tensor:
    """A step's tokens, [rows, T, D], through all layers: hidden states [rows, T, D]; `x` is overwritten.

    It equals `llama` with the rotary angles `rope`, writing to `slots`, long [rows, T], each below `end`, and a mask that
    shows each token the slots up to its own. Heads must be a power of two wide, as in every published Janus.
    """
    layers: Any = llama.layers
    norms = [*(layer.input_layernorm for layer in layers), llama.norm]
    h = _add_norm(x, None, norms[0])
    for index, (layer, after) in enumerate(zip(layers, norms[1:], strict=True)):
        seen = _attend(_linear(layer.self_attn.qkv_proj, h), rope, slots, end, cache, index)
        h = _add_norm(x, _linear(layer.self_attn.o_proj, seen), layer.post_attention_layernorm)
        inner = _silu_mul(_linear(layer.mlp.gate_up_proj, h))
        h = _add_norm(x, _linear(layer.mlp.down_proj, inner), after)
    return h


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer without bias. An int8 weight is read as int8 for up to INT8_ROWS rows, instead of being cast first."""
    if not isinstance(layer, QuantisedLinear) or layer.weight.dtype != torch.int8:
        return layer(x)
    if x.numel() // x.shape[-1] > INT8_ROWS:
        return layer(x)
    return int8_linear(x, layer.weight, layer.scale)


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [..., in] times an int8 weight [out, in] and its scale, float32 [out, 1]: [..., out] in x's type."""
    channels, width = weight.shape
    out = x.new_empty(*x.shape[:-1], channels)
    rows = x.numel() // width
    most = triton.next_power_of_2(rows)  # a program takes all rows, so that each weight is read once
    block = max(PRODUCTS // most, 1)
    int8_linear_kernel[triton.cdiv(channels, block),](
        x, weight, scale, out, rows, channels, width, _exact(x), most, block, INPUTS
    )
    return out


def _exact(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _add_norm(stream: Tensor, x: Tensor | None, norm: nn.Module) -> Tensor:
    """Add x to the residual stream in place; returns it normalised."""
    out, width = torch.empty_like(stream), stream.shape[-1]
    adds = x is not None
    add_norm_kernel[stream.numel() // width,](
        stream,
        x if adds else stream,
        norm.weight,
        out,
        width,
        norm.eps,
        adds,
        _exact(stream),
        triton.next_power_of_2(width),
        num_warps=8,
    )
    return out


def _silu_mul(gate_up: Tensor) -> Tensor:
    inner = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], inner)
    silu_mul_kernel[out.numel() // inner, triton.cdiv(inner, INNER)](gate_up, out, inner, _exact(out), INNER)
    return out


def _attend(
    qkv: Tensor, rope: tuple[Tensor, Tensor], slots: Tensor, end: int, cache: DeviceCache, layer: int
) -> Tensor:
    """Rotate q and k of qkv [rows, T, 3 x D], write k and v to the cache, and attend to each slot up to the token's own."""
    keys, values = cache.keys[layer], cache.values[layer]
    (rows, tokens), heads, size = slots.shape, keys.shape[1], keys.shape[3]
    splits, exact = triton.cdiv(end, SPLIT), _exact(qkv)
    strides = (*keys.stride(), *values.stride(), heads, tokens)
    sums = torch.float64 if exact == tl.float64 else torch.float32
    parts = qkv.new_empty(rows * tokens * heads, splits, size + 2, dtype=sums)
    q, out = qkv.new_empty(2, rows, tokens, heads * size)
    rotate_and_write_kernel[rows * tokens, heads](
        qkv, *rope, slots, q, keys, values, *strides, exact, size // 2, num_warps=1
    )
    attend_kernel[rows * tokens * heads, splits](
        q, slots, keys, values, parts, *strides, size**-0.5, exact, size, SPLIT
    )
    join_kernel[rows * tokens * heads,](parts, out, splits, size, max(triton.next_power_of_2(splits), LEAST_SPLITS))
    return out


def draw(
    logits: Tensor,
    keys: Tensor,
    position: Tensor,
    *,
    cfg_weight: float | None = None,
    min_p: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """The codes, long [pictures, T] as `position`, that win with `gumbel_noise(keys, position, codes)` added.

    `logits` are [pictures, T, codes], or with a `cfg_weight` [2 x pictures, T, codes], which are guided; their last
    dimension is contiguous. `min_p` and `temperature` are those of `Sampling`.
    """
    out, codes = torch.empty_like(position), logits.shape[-1]
    least = math.log(min_p) if min_p else 0.0
    draw_kernel[position.shape](
        logits,
        keys,
        position,
        out,
        len(position),
        *logits.stride()[:2],
        cfg_weight or 0.0,
        least,
        1 / temperature,
        cfg_weight is not None,
        min_p > 0,
        _exact(logits),
        codes,
        GOLDEN32,
        CODES,
        num_warps=16,
    )
    return out
