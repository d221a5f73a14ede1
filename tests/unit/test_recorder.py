"""A step that CUDA graphs can be recorded of: over the borders of buckets, in fresh memory, where a device refuses."""

import importlib
from dataclasses import replace

import pytest
import torch
from recorded import CPU, drawing, say, use_device_cache

import janus_core
from janus_core.generation import cache, recorder
from janus_core.generation.execution import Execution
from janus_core.generation.image import DrawingStep, draw_codes
from janus_core.generation.sampling import Sampling


@pytest.fixture(scope="module")
def exact() -> janus_core.Janus:
    return janus_core.load(dtype=torch.float64)


@pytest.fixture
def device_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    use_device_cache(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("bucket", [1, 7, 64, 1000])
def test_the_same_codes_are_drawn_over_the_borders_of_buckets(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, bucket: int
) -> None:
    prompts = ("a boat", "a red circle and a blue square " * 8)
    expected = [draw_codes(exact.model, drawing(exact, prompt), CPU) for prompt in prompts]
    monkeypatch.setattr(recorder, "BUCKET", bucket)
    for kind in ("cpu_cache", "device_cache"):
        if kind == "device_cache":
            request.getfixturevalue(kind)
        for prompt, codes in zip(prompts, expected, strict=True):
            assert torch.equal(draw_codes(exact.model, drawing(exact, prompt), CPU), codes), kind


@pytest.mark.parametrize(
    ("cfg_weight", "sampling"),
    [(1.0, Sampling()), (5.0, Sampling(0.0)), (2.0, Sampling(0.8, 5)), (3.0, Sampling(top_p=0.7))],
)
def test_both_caches_draw_the_same_codes_with_every_setting(
    exact: janus_core.Janus, request: pytest.FixtureRequest, cfg_weight: float, sampling: Sampling
) -> None:
    what = drawing(exact, "a red circle", cfg_weight, sampling)
    expected = draw_codes(exact.model, what, CPU)
    request.getfixturevalue("device_cache")
    assert torch.equal(draw_codes(exact.model, what, CPU), expected)


@pytest.mark.slow
@pytest.mark.parametrize("bucket", [1, 7, 64, 1000])
@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0)])
def test_the_same_words_are_said_over_the_borders_of_buckets(
    exact: janus_core.Janus,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    bucket: int,
    sampling: Sampling,
) -> None:
    expected = say(exact, sampling)
    monkeypatch.setattr(recorder, "BUCKET", bucket)
    assert say(exact, sampling) == expected
    request.getfixturevalue("device_cache")
    assert say(exact, sampling) == expected


def test_fresh_memory_is_never_looked_at(exact: janus_core.Janus, request: pytest.FixtureRequest) -> None:
    what = drawing(exact, "a boat")
    expected = draw_codes(exact.model, what, CPU)
    request.getfixturevalue("device_cache")
    torch.use_deterministic_algorithms(True)  # which fills fresh memory with NaN
    try:
        assert torch.equal(draw_codes(exact.model, what, CPU), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_progress_is_called_at_each_step_and_may_stop(exact: janus_core.Janus) -> None:
    calls = []

    def progress(step: int, total: int, ids: torch.Tensor) -> None:
        calls.append((step, total, ids.shape[1]))
        if step == 9:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        draw_codes(exact.model, drawing(exact, "a boat"), CPU, progress)
    assert calls == [(step, 36, step) for step in range(1, 10)]


def test_a_model_on_the_cpu_gets_no_graphs(exact: janus_core.Janus) -> None:
    assert CPU.weights_ready([exact.model]) and not CPU.uses_graphs([exact.model])
    assert not Execution(torch.device("cuda")).uses_graphs([exact.model])


@torch.no_grad()
def test_a_device_that_refuses_to_record_is_asked_once_and_draws_all_the_same(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorder.GraphedStep, "possible", True)
    monkeypatch.setattr(recorder, "_capture", refuse)
    monkeypatch.setattr(recorder, "BUCKET", 8)
    step = DrawingStep(exact.model, drawing(exact, "a boat"), CPU)
    run = recorder.GraphedStep(step, None)
    run.recording = True
    for drawn in range(1, 36):
        run(step.start + drawn)
    assert torch.equal(step.ids, draw_codes(exact.model, drawing(exact, "a boat"), CPU))
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("prompt", ["a boat", "a red circle and a blue square " * 8])
@pytest.mark.parametrize("fused", [False, True])
def test_a_graph_draws_what_the_same_steps_draw_without_it(
    prompt: str, dtype: torch.dtype, fused: bool, captured: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    janus = janus_core.load(device="cuda", dtype=dtype)
    plain = janus.execution
    if fused:
        pytest.importorskip("triton")
        kernels = importlib.import_module("janus_core.generation.triton_kernels")
        janus.execution = replace(plain, kernels=kernels)
    parts = janus.model.drawing_parts
    norm = janus.model.language_model.model.norm
    assert plain.uses_graphs(parts)
    assert not replace(plain, unpatched=lambda layer: layer is not norm).uses_graphs(parts)
    for cfg_weight in (1.0, 5.0):
        captured.clear()
        drawn = janus.generate(prompt, 5, seed=3, cfg_weight=cfg_weight).ids
        assert captured and recorder.GraphedStep.possible
        with monkeypatch.context() as without:
            without.setattr(recorder.GraphedStep, "possible", False)
            assert torch.equal(janus.generate(prompt, 5, seed=3, cfg_weight=cfg_weight).ids, drawn)
        # In bfloat16 another kernel rounds otherwise, and a picture goes its own way from there.
        if dtype != torch.bfloat16:
            unrecorded = replace(plain, graphs=False)
            assert torch.equal(drawn, draw_codes(janus.model, drawing(janus, prompt, cfg_weight), unrecorded))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_graph_says_what_the_same_steps_say_without_it(temperature: float, captured: list) -> None:
    janus = janus_core.load(device="cuda", dtype=torch.float64)
    recorded = say(janus, Sampling(temperature), janus.execution)
    assert captured
    assert recorded == say(janus, Sampling(temperature), replace(janus.execution, graphs=False))
    captured.clear()
    janus.model.language_model.model.embed_tokens.cpu()  # as a host may keep it
    janus.answer("is it red?" * 20, temperature=temperature)
    assert captured and recorder.GraphedStep.possible


def test_attention_on_cuda_is_never_cudnns() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with cache.attention_kernels(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
    with cache.attention_kernels(torch.device("cpu")):
        assert torch.backends.cuda.cudnn_sdp_enabled() == before


@torch.no_grad()
def test_a_call_without_memory_for_graphs_draws_all_the_same_and_the_next_one_tries_again(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    what = drawing(exact, "a boat")
    expected = draw_codes(exact.model, what, CPU)
    tries = []

    def run_out(*_: object) -> None:
        tries.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(recorder.GraphedStep, "possible", True)
    monkeypatch.setattr(recorder, "_capture", run_out)
    monkeypatch.setattr(recorder, "BUCKET", 8)
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(tries)))
    for call in (1, 2):
        step = DrawingStep(exact.model, what, CPU)
        run = recorder.GraphedStep(step, None)
        run.recording = True
        for drawn in range(1, what.steps):
            run(step.start + drawn)
        assert torch.equal(step.ids, expected)
        assert len(tries) == call and not run.recording and recorder.GraphedStep.possible
    assert emptied == [0, 1, 1, 2], "before the first capture of a call, and after it failed"


def test_memory_that_runs_out_in_the_step_itself_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    class Step:
        capacity = 64

        def __call__(self, end: int) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        recorder.GraphedStep(Step(), None)(1)
    assert recorder.out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not recorder.out_of_memory(RuntimeError("operation not permitted when stream is capturing"))


@pytest.mark.parametrize("fails", ["step", "end"])
def test_a_failed_capture_lets_go_of_the_allocators_pool(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    class Graph:
        def capture_begin(self, pool: object, capture_error_mode: str) -> None: ...

        def capture_end(self) -> None:
            raise RuntimeError("capture was invalidated")

    def step() -> None:
        if fails == "step":
            raise ValueError("the cause")

    released = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *args: released.append(args), raising=False)
    with pytest.raises(ValueError if fails == "step" else RuntimeError, match="the cause|invalidated"):
        recorder._capture(step, (0, 1))
    assert released == [(0, (0, 1))]
