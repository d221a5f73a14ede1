"""Fixed steps, which CUDA graphs are made of, draw what the sequential sampler draws."""

import pytest
import torch

import janus_core
from janus_core.generation import graph
from janus_core.generation.image import Drawing, draw_codes
from janus_core.generation.sampling import Sampling


@pytest.fixture(scope="module")
def exact() -> janus_core.Janus:
    return janus_core.load(dtype=torch.float64)


def drawing(janus: janus_core.Janus, prompt: str, cfg_weight: float = 5.0, sampling: Sampling | None = None) -> Drawing:
    steps = janus.model.config.grid[0] * janus.model.config.grid[1]
    ids, pad = janus.processor.drawing_prompt(prompt), janus.processor.pad
    return Drawing(ids, pad, steps, 5, 3, cfg_weight, sampling or Sampling())


@pytest.mark.parametrize("bucket", [1, 7, 64, 1000])
def test_fixed_steps_draw_the_same_codes_over_the_borders_of_buckets(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, bucket: int
) -> None:
    monkeypatch.setattr(graph, "BUCKET", bucket)
    for prompt in ("a boat", "a red circle and a blue square " * 8):
        what = drawing(exact, prompt)
        assert torch.equal(graph.draw_codes_graphed(exact.model, what, "cpu"), draw_codes(exact.model, what, "cpu"))


@pytest.mark.parametrize(
    ("cfg_weight", "sampling"),
    [(1.0, Sampling()), (5.0, Sampling(0.0)), (2.0, Sampling(0.8, 5)), (3.0, Sampling(top_p=0.7))],
)
def test_fixed_steps_respect_every_setting(exact: janus_core.Janus, cfg_weight: float, sampling: Sampling) -> None:
    what = drawing(exact, "a red circle", cfg_weight, sampling)
    assert torch.equal(graph.draw_codes_graphed(exact.model, what, "cpu"), draw_codes(exact.model, what, "cpu"))


def test_fixed_steps_never_look_at_what_lies_in_fresh_memory(exact: janus_core.Janus) -> None:
    what = drawing(exact, "a boat")
    plain = draw_codes(exact.model, what, "cpu")
    torch.use_deterministic_algorithms(True)  # which fills fresh memory with NaN
    try:
        assert torch.equal(graph.draw_codes_graphed(exact.model, what, "cpu"), plain)
    finally:
        torch.use_deterministic_algorithms(False)


def test_progress_is_told_each_step_and_may_stop(exact: janus_core.Janus) -> None:
    told = []

    def progress(step: int, total: int, ids: torch.Tensor) -> None:
        told.append((step, total, ids.shape[1]))
        if step == 9:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        graph.draw_codes_graphed(exact.model, drawing(exact, "a boat"), "cpu", progress)
    assert told == [(step, 36, step) for step in range(1, 10)]


def test_a_model_on_the_cpu_or_patched_as_it_is_used_gets_no_graphs(exact: janus_core.Janus) -> None:
    assert not graph.graphable(exact.model, lambda layer: True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prompt", ["a boat", "a red circle and a blue square " * 8])
def test_a_graph_draws_what_the_same_steps_draw_without_it(
    prompt: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured = []
    capture = graph._capture
    monkeypatch.setattr(graph, "_capture", lambda *args: captured.append(capture(*args)) or captured[-1])
    janus = janus_core.load(device="cuda", dtype=dtype)
    assert graph.graphable(janus.model, janus.plain)
    assert not graph.graphable(janus.model, lambda layer: layer is not janus.model.language_model.model.norm)
    for cfg_weight in (1.0, 5.0):
        what = drawing(janus, prompt, cfg_weight)
        plain = draw_codes(janus.model, what, "cuda")
        captured.clear()
        drawn = graph.draw_codes_graphed(janus.model, what, "cuda")
        assert captured and None not in captured
        if dtype == torch.float64:
            assert torch.equal(drawn, plain)
            assert torch.equal(janus.generate(prompt, 5, 3, cfg_weight).ids, plain)
        else:  # another kernel may round otherwise, and then a picture goes its own way from there
            assert (drawn == plain).float().mean() > 0.5
