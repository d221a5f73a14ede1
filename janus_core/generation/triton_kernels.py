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
    _int8_linear_kernel[triton.cdiv(channels, block),](
        x, weight, scale, out, rows, channels, width, _exact(x), most, block, INPUTS
    )
    return out


def _exact(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _add_norm(stream: Tensor, x: Tensor | None, norm: nn.Module) -> Tensor:
    """Add x to the residual stream in place; returns it normalised."""
    out, width = torch.empty_like(stream), stream.shape[-1]
    adds = x is not None
    _add_norm_kernel[stream.numel() // width,](
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
    _silu_mul_kernel[out.numel() // inner, triton.cdiv(inner, INNER)](gate_up, out, inner, _exact(out), INNER)
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
    _rotate_and_write_kernel[rows * tokens, heads](
        qkv, *rope, slots, q, keys, values, *strides, exact, size // 2, num_warps=1
    )
    _attend_kernel[rows * tokens * heads, splits](
        q, slots, keys, values, parts, *strides, size**-0.5, exact, size, SPLIT
    )
    _join_kernel[rows * tokens * heads,](parts, out, splits, size, max(triton.next_power_of_2(splits), LEAST_SPLITS))
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
    _draw_kernel[position.shape](
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


@triton.jit
def _add_norm_kernel(
    stream, x, weight, out, width, EPS: tl.constexpr, ADDS: tl.constexpr, EXACT: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.arange(0, BLOCK)
    inside = at < width
    here = tl.program_id(0) * width + at
    value = tl.load(stream + here, mask=inside, other=0.0).to(EXACT)
    if ADDS:
        rounded = (value + tl.load(x + here, mask=inside, other=0.0).to(EXACT)).to(stream.dtype.element_ty)
        tl.store(stream + here, rounded, mask=inside)
        value = rounded.to(EXACT)
    value = value / tl.sqrt(tl.sum(value * value, axis=0) / width + EPS)
    value *= tl.load(weight + at, mask=inside, other=0.0).to(EXACT)
    tl.store(out + here, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _silu_mul_kernel(gate_up, out, inner, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < inner
    gate = tl.load(gate_up + row * 2 * inner + at, mask=inside, other=0.0).to(EXACT)
    up = tl.load(gate_up + (row * 2 + 1) * inner + at, mask=inside, other=0.0).to(EXACT)
    tl.store(out + row * inner + at, (gate / (1 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _int8_linear_kernel(
    x,
    weight,
    scale,
    out,
    rows,
    channels,
    WIDTH: tl.constexpr,
    EXACT: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.arange(0, ROWS)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    sums = tl.zeros((ROWS, CHANNELS, BLOCK), EXACT)
    for start in range(0, WIDTH, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at[None, :] < WIDTH
        value = tl.load(x + row[:, None] * WIDTH + at[None, :], mask=(row[:, None] < rows) & inside, other=0.0)
        stored = tl.load(
            weight + channel[:, None].to(tl.int64) * WIDTH + at[None, :],
            mask=(channel[:, None] < channels) & inside,
            other=0,
        )
        sums += value.to(EXACT)[:, None, :] * stored.to(EXACT)[None, :, :]
    factor = tl.load(scale + channel, mask=channel < channels, other=0.0).to(EXACT)
    total = tl.sum(sums, axis=2) * factor[None, :]
    inside = (row[:, None] < rows) & (channel[None, :] < channels)
    tl.store(out + row[:, None] * channels + channel[None, :], total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_and_write_kernel(
    qkv,
    cos,
    sin,
    slots,
    q,
    keys,
    values,
    k_row,
    k_head,
    k_slot,
    k_dim,
    v_row,
    v_head,
    v_slot,
    v_dim,
    heads,
    tokens,
    EXACT: tl.constexpr,
    HALF: tl.constexpr,
):
    token, head = tl.program_id(0), tl.program_id(1)
    row = token // tokens
    left, right = tl.arange(0, HALF), tl.arange(0, HALF) + HALF
    size = 2 * HALF
    kind = q.dtype.element_ty
    c, s = tl.load(cos + token * size + left).to(EXACT), tl.load(sin + token * size + left).to(EXACT)
    slot = tl.load(slots + token)

    read = qkv + (token * 3 * heads + head) * size
    a, b = tl.load(read + left).to(EXACT), tl.load(read + right).to(EXACT)
    write = q + (token * heads + head) * size
    tl.store(write + left, (a * c - b * s).to(kind))
    tl.store(write + right, (b * c + a * s).to(kind))

    read += heads * size
    a, b = tl.load(read + left).to(EXACT), tl.load(read + right).to(EXACT)
    write = keys + row * k_row + head * k_head + slot * k_slot
    tl.store(write + left * k_dim, (a * c - b * s).to(kind))
    tl.store(write + right * k_dim, (b * c + a * s).to(kind))

    read += heads * size
    write = values + row * v_row + head * v_head + slot * v_slot
    tl.store(write + left * v_dim, tl.load(read + left))
    tl.store(write + right * v_dim, tl.load(read + right))


@triton.jit
def _attend_kernel(
    q,
    slots,
    keys,
    values,
    parts,
    k_row,
    k_head,
    k_slot,
    k_dim,
    v_row,
    v_head,
    v_slot,
    v_dim,
    heads,
    tokens,
    SCALE: tl.constexpr,
    EXACT: tl.constexpr,
    SIZE: tl.constexpr,
    SLOTS: tl.constexpr,
):
    """Attention to one split of the slots: its weighted sum of values, largest score and sum of weights.

    The splits of a row run side by side, and `_join_kernel` joins them (Dao et al. 2023, "Flash-Decoding").
    """
    which, split = tl.program_id(0), tl.program_id(1)
    token, head = which // heads, which % heads
    row = token // tokens
    dim = tl.arange(0, SIZE)
    slot = split * SLOTS + tl.arange(0, SLOTS)
    seen = slot <= tl.load(slots + token)
    query = tl.load(q + which * SIZE + dim).to(EXACT) * SCALE
    key = keys + row * k_row + head * k_head + slot[:, None] * k_slot + dim[None, :] * k_dim
    key = tl.load(key, mask=seen[:, None], other=0.0).to(EXACT)
    value = values + row * v_row + head * v_head + slot[:, None] * v_slot + dim[None, :] * v_dim
    value = tl.load(value, mask=seen[:, None], other=0.0).to(EXACT)
    score = tl.sum(key * query[None, :], axis=1)
    largest = tl.max(tl.where(seen, score, -1e30), axis=0)
    weight = tl.where(seen, tl.exp(score - largest), 0.0)
    total = tl.sum(value * weight[:, None], axis=0)
    part = parts + (which * tl.num_programs(1) + split) * (SIZE + 2)
    tl.store(part + dim, total)
    tl.store(part + SIZE, largest)
    tl.store(part + SIZE + 1, tl.sum(weight, axis=0))


@triton.jit(do_not_specialize=["splits"])
def _join_kernel(parts, out, splits, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    which = tl.program_id(0)
    dim, split = tl.arange(0, SIZE), tl.arange(0, BLOCK)
    inside = split < splits
    part = parts + (which * splits + split) * (SIZE + 2)
    largest = tl.load(part + SIZE, mask=inside, other=-1e30)
    share = tl.exp(largest - tl.max(largest, axis=0))
    weight = tl.sum(tl.load(part + SIZE + 1, mask=inside, other=0.0) * share, axis=0)
    totals = tl.load(part[:, None] + dim[None, :], mask=inside[:, None], other=0.0)
    total = tl.sum(totals * share[:, None], axis=0) / weight
    tl.store(out + which * SIZE + dim, total.to(out.dtype.element_ty))


@triton.jit
def _mixed(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _guided(logits, uncond, code, weight, COUNT: tl.constexpr, GUIDED: tl.constexpr, EXACT: tl.constexpr):
    value = tl.load(logits + code, mask=code < COUNT, other=float("-inf")).to(EXACT)
    if GUIDED:
        other = tl.load(uncond + code, mask=code < COUNT, other=0.0).to(EXACT)
        value = other + weight * (value - other)
    return value


@triton.jit(do_not_specialize=["weight", "least", "scale"])
def _draw_kernel(
    logits,
    keys,
    position,
    out,
    pictures,
    row_stride,
    token_stride,
    weight,
    least,
    scale,
    GUIDED: tl.constexpr,
    MIN_P: tl.constexpr,
    EXACT: tl.constexpr,
    COUNT: tl.constexpr,
    GOLDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, at_token = tl.program_id(0), tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    cond = logits + row * row_stride + tl.program_id(1) * token_stride
    uncond = cond + pictures * row_stride
    low, high = tl.load(keys + 2 * row).to(tl.uint32), tl.load(keys + 2 * row + 1).to(tl.uint32)
    first = _mixed(low + tl.load(position + at_token).to(tl.uint32) * GOLDEN)
    second = _mixed(first ^ high)
    likeliest = tl.full((), float("-inf"), EXACT)
    if MIN_P:
        for start in range(0, COUNT, BLOCK):
            value = _guided(cond, uncond, start + tl.arange(0, BLOCK), weight, COUNT, False, EXACT)
            likeliest = tl.maximum(likeliest, tl.max(value, axis=0))
    best, winner = tl.full((), float("-inf"), EXACT), tl.full((), 0, tl.int32)
    for start in range(0, COUNT, BLOCK):
        code = start + tl.arange(0, BLOCK)
        bits = _mixed(_mixed(code.to(tl.uint32) * GOLDEN + first) ^ second)
        rest = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
        # log(1 - rest), exact also where rest is so small that 1 - rest rounds to 1.
        left = 1 - rest
        log = tl.where(left == 1, -rest, tl.log(left) * (rest / (1 - left)))
        value = _guided(cond, uncond, code, weight, COUNT, GUIDED, EXACT) * scale - tl.log(-log)
        drawable = code < COUNT
        if MIN_P:
            drawable &= _guided(cond, uncond, code, weight, COUNT, False, EXACT) - likeliest >= least
        value = tl.where(drawable, value, float("-inf"))
        top, at = tl.max(value, axis=0, return_indices=True)
        winner = tl.where(top > best, start + at, winner)
        best = tl.maximum(top, best)
    tl.store(out + at_token, winner)
