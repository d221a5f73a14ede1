"""At Janus-Pro's widths, kernels read and write only what is theirs: each tensor is between bands of NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn import functional as F

from janus_core.config import JanusConfig
from janus_core.generation import triton_kernels as kernels
from janus_core.generation.sampling import gumbel_noise, seed_keys
from janus_core.model.llama import rope_table, rotate

BAND = 8192
CAPACITY = 320
# Not in bfloat16, to which the interpreter cuts off, where compiled code rounds.
TOLERANCE = {torch.float16: 2e-3, torch.float32: 2e-5}
CASES = [(name, dtype) for name in ("Janus-Pro-1B", "Janus-Pro-7B") for dtype in TOLERANCE]


class Bands:
    """Makes tensors in the middle of longer ones. NaN (-1 for whole numbers) is around them, and where nothing is written."""

    def __init__(self) -> None:
        self.made: list[tuple[Tensor, int]] = []
        self.noise = torch.Generator().manual_seed(0)

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        size = math.prod(shape)
        whole = torch.full((size + 2 * BAND,), torch.nan if dtype.is_floating_point else -1, dtype=dtype)
        self.made.append((whole, size))
        return whole[BAND : BAND + size].view(shape)

    def of(self, values: Tensor) -> Tensor:
        return self.empty(*values.shape, dtype=values.dtype).copy_(values)

    def random(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return self.of(torch.randn(*shape, generator=self.noise).to(dtype))

    def check(self) -> None:
        for whole, size in self.made:
            for band in (whole[:BAND], whole[BAND + size :]):
                blank = band.isnan() if whole.is_floating_point() else band == -1
                assert blank.all(), "a kernel wrote past the end of a tensor"


@pytest.fixture
def bands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bands]:
    """Bands also around what the kernels' callers allocate. Checked at the end."""
    bands, original = Bands(), Tensor.new_empty

    def new_empty(like: Tensor, *shape: Any, dtype: torch.dtype | None = None, **of_the_interpreter: Any) -> Tensor:
        if of_the_interpreter:
            return original(like, *shape, **of_the_interpreter)
        return bands.empty(*shape, dtype=dtype or like.dtype)

    monkeypatch.setattr(torch, "empty_like", lambda like: bands.empty(*like.shape, dtype=like.dtype))
    monkeypatch.setattr(Tensor, "new_empty", new_empty)
    yield bands
    bands.check()


def close(found: Tensor, truth: Tensor) -> None:
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found.double(), truth, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "dtype"), CASES)
@pytest.mark.parametrize("adds", [False, True])
def test_the_residual_stream_and_its_norm(name: str, dtype: torch.dtype, adds: bool, bands: Bands) -> None:
    config = JanusConfig.preset(name).llama
    width = config.hidden_size
    norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
    norm.weight = nn.Parameter(bands.random(width, dtype=dtype), requires_grad=False)
    stream, x = (bands.random(2, 1, width, dtype=dtype) for _ in range(2))
    expected = stream + x if adds else stream.clone()
    out = kernels._add_norm(stream, x if adds else None, norm)
    assert torch.equal(stream, expected)
    close(out, F.rms_norm(expected.double(), [width], norm.weight.double(), norm.eps))


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_the_gate_of_the_mlp(name: str, dtype: torch.dtype, bands: Bands) -> None:
    gate_up = bands.random(2, 1, 2 * JanusConfig.preset(name).llama.intermediate_size, dtype=dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    close(kernels._silu_mul(gate_up), F.silu(gate) * up)


@pytest.mark.parametrize("name", ["Janus-Pro-1B", "Janus-Pro-7B"])
@pytest.mark.parametrize(
    ("dtype", "slots", "end"),
    [(torch.float16, [[293], [0]], CAPACITY), (torch.float32, [[63, 64], [126, 127]], 128)],
)
def test_attention_and_the_cache(name: str, dtype: torch.dtype, slots: list[list[int]], end: int, bands: Bands) -> None:
    """Of two rows that have read as many tokens as their first slot says; the slots after their last are NaN."""
    config = JanusConfig.preset(name).llama
    heads, size, rows, tokens = config.num_attention_heads, config.head_dim, len(slots), len(slots[0])
    cache: Any = type("Cache", (), {})()
    cache.keys, cache.values = (bands.empty(1, rows, heads, CAPACITY, size, dtype=dtype) for _ in range(2))
    for row, (first, *_) in enumerate(slots):
        for half in (cache.keys, cache.values):
            half[0, row, :, :first] = torch.randn(heads, first, size, generator=bands.noise)
    before = cache.keys.clone(), cache.values.clone()
    where = bands.of(torch.tensor(slots))
    qkv = bands.random(rows, tokens, 3 * heads * size, dtype=dtype)
    cos, sin = (bands.of(table) for table in rope_table(where, size, config.rope_theta, dtype))
    out = kernels._attend(qkv, (cos, sin), where, end, cache, 0)

    q, k, v = qkv.double().view(rows, tokens, 3, heads, size).permute(2, 0, 3, 1, 4)
    q, k = (rotate(x, cos.double(), sin.double()) for x in (q, k))
    for row, (first, *_) in enumerate(slots):
        last = first + tokens
        for half, old, new in zip((cache.keys, cache.values), before, (k[row], v[row]), strict=True):
            close(half[0, row, :, first:last], new)
            for untouched in (slice(first), slice(last, None)):
                assert torch.equal(half[0, row, :, untouched].nan_to_num(9), old[0, row, :, untouched].nan_to_num(9))
        keys, values = (half[0, row, :, :last].double() for half in (cache.keys, cache.values))
        mask = torch.arange(last) <= torch.tensor(slots[row])[:, None]
        seen = F.scaled_dot_product_attention(q[row], keys, values, attn_mask=mask)  # [heads, tokens, size]
        close(out[row], seen.transpose(0, 1).flatten(1))


def test_the_draw_with_noise(bands: Bands) -> None:
    codes = JanusConfig.preset("Janus-Pro-7B").vq.codebook_size
    keys, places = bands.of(seed_keys(5, 2, "cpu")), bands.of(torch.tensor([[0, 1], [575, 2**31 - 1]]))
    logits = bands.random(2, 2, codes, dtype=torch.float32)
    expected = (gumbel_noise(keys, places, codes) + logits).argmax(-1)
    assert torch.equal(kernels.draw(logits, keys, places), expected)


@triton.jit
def _copy_kernel(x, out, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    tl.store(out + at, tl.load(x + at))


def test_what_is_read_or_written_past_the_end_is_found() -> None:
    bands = Bands()
    x = bands.random(3, dtype=torch.float32)
    longer, shorter = (bands.empty(n, dtype=torch.float32) for n in (4, 3))
    _copy_kernel[1,](x, longer, 4)
    assert longer[3].isnan() and not longer[:3].isnan().any()
    bands.check()
    _copy_kernel[1,](torch.ones(4), shorter, 4)
    with pytest.raises(AssertionError, match="past the end"):
        bands.check()
