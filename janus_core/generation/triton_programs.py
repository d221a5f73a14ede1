"""The Triton programs that `triton_kernels` launches: what one program of each kernel reads, computes and writes.

EXACT is the type of sums: float32, or float64 for tensors of float64.
"""

import triton
import triton.language as tl


@triton.jit
def add_norm_kernel(
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
def silu_mul_kernel(gate_up, out, inner, EXACT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < inner
    gate = tl.load(gate_up + row * 2 * inner + at, mask=inside, other=0.0).to(EXACT)
    up = tl.load(gate_up + (row * 2 + 1) * inner + at, mask=inside, other=0.0).to(EXACT)
    tl.store(out + row * inner + at, (gate / (1 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def int8_linear_kernel(
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
def rotate_and_write_kernel(
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
def attend_kernel(
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

    The splits of a row run side by side, and `join_kernel` joins them (Dao et al. 2023, "Flash-Decoding").
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
def join_kernel(parts, out, splits, SIZE: tl.constexpr, BLOCK: tl.constexpr):
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
def draw_kernel(
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
