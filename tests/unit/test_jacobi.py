"""Jacobi decoding draws what the sequential sampler draws, in fewer passes."""

import pytest
import torch

import janus_core
from janus_core.generation import recorder
from janus_core.generation.execution import Execution


@pytest.fixture(scope="module")
def exact() -> janus_core.Janus:
    return janus_core.load(dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("window", [3, 8])
def test_jacobi_draws_the_sequential_samplers_codes_for_200_seeds(exact: janus_core.Janus, window: int) -> None:
    passes = []
    count = lambda step, total, ids: passes.append(step)
    jacobi = exact.generate("two red cats", count=200, seed=9, sampler="jacobi", window=window, progress=count)
    assert torch.equal(jacobi.ids, exact.generate("two red cats", count=200, seed=9).ids)
    assert passes == sorted(passes)
    assert passes[-1] == jacobi.ids.shape[1]


def test_jacobi_takes_fewer_passes_than_codes(exact: janus_core.Janus) -> None:
    passes = []
    tokens = exact.generate("a", sampler="jacobi", progress=lambda step, total, ids: passes.append(step))
    assert len(passes) < tokens.ids.shape[1]


@pytest.mark.parametrize("settings", [{"cfg_weight": 1.0}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.7}])
def test_jacobi_respects_every_setting(exact: janus_core.Janus, settings: dict[str, float]) -> None:
    plain = exact.generate("a boat", count=8, seed=3, **settings)
    assert torch.equal(exact.generate("a boat", count=8, seed=3, sampler="jacobi", window=4, **settings).ids, plain.ids)


@pytest.mark.parametrize("bucket", [1, 7, 1000])
def test_jacobi_draws_the_same_codes_over_the_borders_of_buckets(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, bucket: int
) -> None:
    plain = exact.generate("a boat", count=5).ids
    monkeypatch.setattr(recorder, "BUCKET", bucket)
    assert torch.equal(exact.generate("a boat", count=5, sampler="jacobi", window=5).ids, plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_jacobi_as_graphs_draws_the_sequential_samplers_codes(captured: list) -> None:
    janus = janus_core.load(device="cuda", dtype=torch.float64)
    drawn = janus.generate("a boat", count=5, sampler="jacobi", window=5).ids
    assert captured and recorder.GraphedStep.possible
    janus.execution = Execution(janus.device, graphs=False)
    for settings in ({}, {"sampler": "jacobi", "window": 5}):
        assert torch.equal(janus.generate("a boat", count=5, **settings).ids, drawn)


def test_what_lies_in_fresh_memory_is_never_looked_at(exact: janus_core.Janus) -> None:
    plain = exact.generate("a boat", count=3).ids
    torch.use_deterministic_algorithms(True)  # which fills fresh memory with NaN
    try:
        for settings in ({"sampler": "sequential"}, {"sampler": "jacobi", "window": 5}):
            assert torch.equal(exact.generate("a boat", count=3, **settings).ids, plain)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_window_beyond_the_picture_draws_as_one_of_the_whole_picture(exact: janus_core.Janus) -> None:
    plain = exact.generate("a boat", count=2).ids
    for window in (36, 37, 2**40, 2**70):
        assert torch.equal(exact.generate("a boat", count=2, sampler="jacobi", window=window).ids, plain)


def test_an_unknown_sampler_and_an_empty_window_are_refused(exact: janus_core.Janus) -> None:
    with pytest.raises(janus_core.InputError, match="sampler"):
        exact.generate("a", sampler="magic")
    with pytest.raises(janus_core.InputError, match="window"):
        exact.generate("a", sampler="jacobi", window=0)
