"""Rearranged weights: the same numbers within rounding, for the length of a run and not longer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

import janus_core
from janus_core.generation import cpu_kernels
from janus_core.generation.cpu_kernels import MIN_PACKED_ROWS, copied_bytes, fast_layers
from janus_core.generation.execution import Execution
from janus_core.model import cpu_ops
from janus_core.model.quantised import MAX_INT8_KERNEL_ROWS, QuantisedLinear, dequantise, quantise, quantised_linear
from janus_core.pipeline import Janus
from janus_core.precision import Precision

CPU = torch.device("cpu")
ON_CPU = Execution(CPU)
WIDTH, OUT = 512, 4096 + 128


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def model_of(dtype: torch.dtype) -> nn.Sequential:
    """A big layer and a small one."""
    if dtype == torch.int8:
        big = QuantisedLinear(WIDTH, OUT, bias=True, dtype=dtype, compute=torch.bfloat16)
        weight, scale = quantise(noise(OUT, WIDTH), dtype)
        state = {"weight": weight, "weight_scale": scale, "bias": noise(OUT).bfloat16()}
        big.load_state_dict(state, assign=True)
        dtype = torch.bfloat16
    else:
        big = nn.Linear(WIDTH, OUT, dtype=dtype)
    return nn.Sequential(big, nn.Linear(OUT, 16, dtype=dtype)).requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 33])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.int8, 1.5e-2)], ids=str
)
def test_computes_the_same_within_rounding(dtype, tolerance, rows):
    model = model_of(dtype)
    x = noise(rows, 1, WIDTH).to(model[1].weight.dtype)
    big = model[0]
    weight = dequantise(big.weight, big.weight_scale) if dtype == torch.int8 else big.weight
    exact = x.double() @ weight.double().T + big.bias.double()
    plain = big(x)
    with fast_layers(model, rows=rows, execution=ON_CPU):
        fast = {torch.int8: rows > 1 and torch.cpu._is_vnni_supported(), torch.float32: rows > 1}
        assert ("forward" in big.__dict__) == fast.get(dtype, cpu_ops.is_usable("fast bfloat16"))
        assert "forward" not in model[1].__dict__
        packed = big(x)
    assert packed.shape == plain.shape and packed.dtype == plain.dtype
    for out in (plain, packed):
        assert (out.double() - exact).norm() / exact.norm() < tolerance
    assert torch.equal(big(x), plain) and "forward" not in big.__dict__


def test_an_interrupted_run_leaves_no_trace():
    model = model_of(torch.float32)
    with pytest.raises(KeyboardInterrupt), fast_layers(model, rows=2, execution=ON_CPU):
        assert "forward" in model[0].__dict__
        raise KeyboardInterrupt
    assert "forward" not in model[0].__dict__


def test_layers_that_a_host_patches_are_left_alone():
    model = model_of(torch.float32)
    with fast_layers(model, rows=2, execution=Execution(CPU, unpatched=lambda layer: layer is not model[0])):
        assert "forward" not in model[0].__dict__


def test_weights_that_lie_on_the_cpu_to_be_used_elsewhere_are_left_alone():
    model = model_of(torch.float32)
    with fast_layers(model, rows=2, execution=Execution(torch.device("cuda"))):
        assert "forward" not in model[0].__dict__
    assert copied_bytes(model, rows=2, device=torch.device("cuda")) == 0


def test_no_copy_is_made_where_there_is_no_room_for_it(monkeypatch):
    model = model_of(torch.float32)
    size = model[0].weight.nbytes + MIN_PACKED_ROWS * WIDTH * 4
    for free, packs in ((2 * size - 1, False), (2 * size, True)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: SimpleNamespace(available=free))
        assert copied_bytes(model, rows=2, device=CPU) == (size if packs else 0)
        with fast_layers(model, rows=2, execution=ON_CPU):
            assert ("forward" in model[0].__dict__) == packs


@pytest.mark.parametrize("rows", [1, MAX_INT8_KERNEL_ROWS, MAX_INT8_KERNEL_ROWS + 1])
def test_8_bit_weights_as_they_lie_round_nothing_further(rows):
    weight, scale = quantise(noise(96, 64) * torch.logspace(-3, 2, 96)[:, None], torch.int8)
    x, bias = noise(rows, 64).bfloat16(), noise(96).bfloat16()
    product = x.double() @ dequantise(weight, scale).double().T
    out = quantised_linear(x, weight, scale=scale, bias=bias)
    assert out.dtype == torch.bfloat16
    # Three roundings to bfloat16: of the sum, of it scaled, and of it with the bias.
    allowed = 2**-8 * 3.1 * (product.abs() + bias.double().abs())
    assert ((out.double() - product - bias.double()).abs() <= allowed).all()


def test_drawing_runs_on_rearranged_weights_and_draws_the_same(janus, monkeypatch):
    plain = janus.generate("a red circle", count=2).ids
    monkeypatch.setattr(cpu_kernels, "MIN_PACKED_WEIGHTS", 1)
    seen = set()
    layer = janus.model.language_model.model.layers[0].mlp.gate_up_proj
    packed = janus.generate("a red circle", count=2, progress=lambda *_: seen.add("forward" in layer.__dict__)).ids
    assert seen == {True} and "forward" not in layer.__dict__
    assert (packed == plain).double().mean() > 0.9


def test_answering_reads_weights_as_they_lie_by_the_kernel_for_one_row(janus, monkeypatch):
    model = copy.deepcopy(janus.model).bfloat16()
    bf16 = Janus(model, janus.processor, precision=Precision(torch.bfloat16), execution=janus.execution)
    plain = bf16.answer("What is it?", max_new_tokens=12)
    monkeypatch.setattr(cpu_kernels, "MIN_PACKED_WEIGHTS", 1)
    seen = set()
    head = bf16.model.language_model.lm_head
    answer = bf16.answer("What is it?", max_new_tokens=12, progress=lambda *_: seen.add("forward" in head.__dict__))
    assert answer == plain
    assert seen == {cpu_ops.is_usable("fast bfloat16")} and "forward" not in head.__dict__
    assert torch._C._get_mkldnn_enabled(), "what other layers use is switched on again"


def test_threads_that_share_a_model_draw_what_each_draws_alone(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "MIN_PACKED_WEIGHTS", 1)
    janus = janus_core.load(dtype=torch.float32)
    draw = lambda seed: janus.generate("a red circle", seed=seed).ids.tolist()
    alone = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(draw, range(4))) == alone


@pytest.fixture
def probed_again() -> Iterator[None]:
    """Kernels are probed again in this test, and once more after it."""
    cpu_ops.is_usable.cache_clear()
    yield
    cpu_ops.is_usable.cache_clear()


def gone(*_: object) -> None:
    raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")


@pytest.mark.parametrize("broken", [gone, lambda packed, x: x.new_zeros(len(x), 32)], ids=["missing", "wrong"])
def test_a_private_kernel_that_is_missing_or_wrong_is_not_used_and_logged_once(
    monkeypatch, caplog, probed_again, broken
) -> None:
    monkeypatch.setattr(cpu_ops, "packed_linear", broken)
    model, x = model_of(torch.float32), noise(2, 1, WIDTH)
    expected = model(x)
    for _ in range(2):
        with fast_layers(model, rows=2, execution=ON_CPU):
            assert "forward" not in model[0].__dict__
            assert torch.equal(model(x), expected)
    assert copied_bytes(model, rows=2, device=CPU) == 0
    (line,) = caplog.messages
    assert "packed float32" in line and line.startswith("Janus runs more slowly")


def test_an_int8_kernel_that_is_wrong_is_replaced_by_a_cast(monkeypatch, caplog, probed_again) -> None:
    weight, scale = quantise(noise(96, 64), torch.int8)
    x = noise(2, 64).bfloat16()
    expected = quantised_linear(x, weight, scale=scale, bias=None)
    cpu_ops.is_usable.cache_clear()
    monkeypatch.setattr(cpu_ops, "int8_linear", lambda x, weight: x.new_zeros(len(x), len(weight)))
    torch.testing.assert_close(quantised_linear(x, weight, scale=scale, bias=None), expected, atol=0.2, rtol=2e-2)
    assert ["int8" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize(("usable", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_computes_in_bfloat16_if_it_is_fast_at_that(monkeypatch, usable, dtype) -> None:
    monkeypatch.setattr(cpu_ops, "is_usable", lambda name: usable and name == "fast bfloat16")
    assert cpu_ops.cpu_compute_dtype() == dtype
