"""Weights of 8 bits: how they are rounded, what they compute, and how little that changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import janus_core
from janus_core import InputError
from janus_core.__main__ import main
from janus_core.bench.dtypes import answering_agreement, drawing_agreement
from janus_core.convert import convert
from janus_core.model.quantised import QuantisedLinear, dequantise, quantise
from janus_core.precision import EIGHT_BIT, NAMES, Precision
from janus_core.weights.loading import make_writable

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
EIGHT_BIT_DTYPES = pytest.mark.parametrize("dtype", EIGHT_BIT.values(), ids=EIGHT_BIT)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@EIGHT_BIT_DTYPES
def test_rounding_is_to_the_nearest_of_the_type(dtype):
    weight = drawn(64, 96) * torch.logspace(-3, 2, 64)[:, None]
    small, scale = quantise(weight, dtype)
    assert small.dtype == dtype and scale.dtype == torch.float32
    error = (dequantise(small, scale) - weight).abs()
    if dtype == torch.int8:
        assert scale.shape == (64, 1) and small.abs().amax(dim=1).eq(127).all()
        assert (error <= scale / 2 * (1 + 1e-5)).all()
    else:
        assert scale.shape == () and small.float().abs().max() == 448
        smallest = 2.0**-6 * scale  # below it numbers are equally spaced, 8 to the power of two
        assert (error <= torch.maximum(weight.abs() * 2**-4, smallest * 2**-4) * (1 + 1e-5)).all()


@EIGHT_BIT_DTYPES
def test_nothing_but_zeros_stays_zeros(dtype):
    small, scale = quantise(torch.zeros(8, 8), dtype)
    assert torch.equal(dequantise(small, scale), torch.zeros(8, 8))


def layer_of(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> QuantisedLinear:
    out, width = weight.shape
    layer = QuantisedLinear(width, out, bias=bias is not None, dtype=dtype, compute=torch.float32)
    small, scale = quantise(weight, dtype)
    state = {"weight": small, "weight_scale": scale.expand(out, 1)} | ({} if bias is None else {"bias": bias})
    layer.load_state_dict(state, assign=True)
    return layer


@EIGHT_BIT_DTYPES
@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_computes_with_the_weight_its_8_bits_stand_for(dtype, biased):
    weight, x, bias = drawn(48, 96), drawn(5, 7, 96), drawn(48) if biased else None
    layer = layer_of(weight, bias, dtype)
    expected = F.linear(x, dequantise(layer.weight, layer.weight_scale), bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@EIGHT_BIT_DTYPES
def test_a_long_sum_does_not_overflow_in_half(dtype):
    weight, x = drawn(8, 4096).abs(), drawn(2, 4096).abs() * 4
    layer = layer_of(weight, None, dtype)
    assert (layer.weight.float() @ x.T).max() > torch.finfo(torch.float16).max
    expected = F.linear(x, dequantise(layer.weight, layer.weight_scale))
    torch.testing.assert_close(layer(x.half()).float(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", EIGHT_BIT)
def test_the_model_draws_as_one_with_the_rounded_weights_written_out(janus, tmp_path, dtype):
    folder = tmp_path / "rounded.safetensors"
    convert(TINY, folder, dtype=dtype)
    small = janus_core.load(folder, dtype=dtype, compute=torch.float32)
    whole = janus_core.load(folder, dtype=torch.float32)
    assert {p.dtype for p in whole.model.parameters()} == {torch.float32}
    assert torch.equal(small.generate("a red circle", 2).ids, whole.generate("a red circle", 2).ids)
    assert not torch.equal(small.generate("a red circle", 2).ids, janus.generate("a red circle", 2).ids)


@pytest.mark.parametrize(
    ("dtype", "kl", "same"), [("bf16", 0.005, 0.95), ("int8", 0.01, 0.93), ("fp8_e4m3fn", 0.1, 0.8)]
)
def test_small_weights_change_little(janus, pictures, dtype, kl, same):
    other = janus_core.load(TINY, dtype=dtype)
    drawing = drawing_agreement(janus, other, prompt="a red circle", codes=janus.generate("a red circle", 4).ids)
    answering = answering_agreement(janus, other, question="What is it?", picture=pictures(1)[0])
    for agreement in (drawing, answering):
        assert 0 < agreement.kl < kl and agreement.same > same


def test_a_model_agrees_with_itself_and_not_with_noise(janus, pictures):
    other, codes = janus_core.load(TINY), janus.generate("a red circle", 2).ids
    drawing = drawing_agreement(janus, other, prompt="a red circle", codes=codes)
    assert drawing == answering_agreement(janus, other, question="What is it?", picture=pictures(1)[0])
    assert drawing.same == 1
    for layer in other.model.language_model.model.layers:
        make_writable(layer.self_attn.o_proj).weight.normal_(0, 1)
    assert drawing_agreement(janus, other, prompt="a red circle", codes=codes).same < 0.5


@pytest.mark.parametrize("name", ["int4", "BF16", "", "float32"])
def test_an_unknown_dtype_is_named_beside_those_there_are(name):
    with pytest.raises(InputError, match="There is no dtype .*fp8_e4m3fn, int8"):
        janus_core.load(dtype=name)


def test_what_cannot_be_computed_in_is_refused():
    with pytest.raises(InputError, match="cannot be computed in torch.int32"):
        janus_core.load(dtype=torch.int32)
    with pytest.raises(InputError, match="are computed in it"):
        janus_core.load(dtype="bf16", compute=torch.float32)
    with pytest.raises(InputError, match="no fp8: choose int8"):
        janus_core.load(device="mps", dtype="fp8_e4m3fn")


def test_the_vq_is_never_half_whatever_the_weights():
    assert Precision.of("int8").vq == torch.bfloat16
    assert Precision.of("int8", torch.float16).vq == Precision.of("fp16").vq == torch.float32


@pytest.mark.slow
def test_the_command_shows_every_dtype_and_size(capsys):
    assert main(["dtypes", "--count", "1"]) == 0
    out = capsys.readouterr().out
    for dtype in NAMES:
        assert out.count(f"| {dtype} |") == 3
    assert "| bf16 | 0 | 100.0% | 0 | 100.0% |" in out
    assert "| Janus-Pro-7B | bf16 | 14.8 |" in out  # as published: 14.84 GB with what is dropped
