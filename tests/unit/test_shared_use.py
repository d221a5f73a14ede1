"""One model used from several threads, from its own progress callback, and again after memory ran out."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
import torch

from janus_core.errors import MemoryExhaustedError
from janus_core.generation import cpu_kernels
from janus_core.model import cpu_ops

PROMPT = "a red circle"


@pytest.mark.parametrize("work", ["decode", "encode"])
def test_decoding_and_encoding_in_another_thread_wait_for_the_end_of_a_drawing(janus, pictures, work):
    """Drawing switches PyTorch's kernels for the whole process."""
    tokens, image, done = janus.generate(PROMPT, seed=1), pictures(1), threading.Event()

    def other() -> None:
        janus.decode(tokens) if work == "decode" else janus.encode(image)
        done.set()

    thread = threading.Thread(target=other)

    def progress(step: int, total: int, _: Any) -> None:
        if step == 1:
            thread.start()
        if step == total:
            assert not done.wait(0.3)

    janus.generate(PROMPT, progress=progress)
    thread.join()
    assert done.is_set()


def test_the_switch_of_kernels_is_back_however_threads_meet(monkeypatch):
    """One thread switches off and computes; another must not find it off and restore that last."""
    first_is_in, second_is_done = threading.Event(), threading.Event()
    linear = cpu_ops.F.linear

    def slow(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if threading.current_thread() is first:
            first_is_in.set()
            second_is_done.wait(0.3)  # without a lock the second has come in and waits for the first
        else:
            first_is_out.wait(0.3)
        return linear(x, weight)

    def run() -> None:
        cpu_ops.one_row(torch.ones(1, 4), torch.ones(2, 4))
        first_is_out.set()

    def run_second() -> None:
        first_is_in.wait()
        cpu_ops.one_row(torch.ones(1, 4), torch.ones(2, 4))
        second_is_done.set()

    first_is_out = threading.Event()
    first, second = threading.Thread(target=run), threading.Thread(target=run_second)
    monkeypatch.setattr(cpu_ops.F, "linear", slow)
    try:
        for thread in (first, second):
            thread.start()
        for thread in (first, second):
            thread.join()
        assert torch._C._get_mkldnn_enabled()
    finally:
        torch._C._set_mkldnn_enabled(True)


@pytest.mark.parametrize("sampler", ["sequential", "jacobi"])
def test_a_progress_callback_may_use_the_model_and_changes_nothing(janus, monkeypatch, sampler):
    monkeypatch.setattr(cpu_kernels, "MIN_PACKED_WEIGHTS", 1)
    settings = {"count": 2, "sampler": sampler}
    layer = janus.model.language_model.model.layers[0].mlp.gate_up_proj
    alone, other = janus.generate(PROMPT, **settings).ids, janus.generate("a boat", seed=5).ids
    answer, inside, replaced = janus.answer("What?", max_new_tokens=4), [], set()

    def progress(step: int, total: int, _: Any) -> None:
        if step == 3:
            inside.append(torch.equal(janus.generate("a boat", seed=5).ids, other))
            inside.append(janus.answer("What?", max_new_tokens=4) == answer)
            inside.append(len(janus.decode(janus.generate("a boat", seed=5))) == 1)
        replaced.add("forward" in layer.__dict__)

    assert torch.equal(janus.generate(PROMPT, **settings, progress=progress).ids, alone)
    assert set(inside) == {True} and replaced == {True} and "forward" not in layer.__dict__


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 4 GB)"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("work", "module", "expected"),
    [
        ("generate", "gen_head", "while drawing a batch of 2: draw fewer at once"),
        ("decode", "gen_vision_model.post_quant_conv", "while decoding a batch of 2: decode fewer at once"),
        ("answer", "language_model.lm_head", "while answering a batch of 1: ask fewer"),
        ("encode", "gen_vision_model.quant_conv", "while encoding a batch of 2: encode fewer"),
    ],
)
def test_when_memory_runs_out_a_sentence_says_what_to_lower_and_the_next_run_works(
    janus, pictures, monkeypatch, error, work, module, expected
):
    tokens, images = janus.generate(PROMPT, 2), pictures(2)
    run = {
        "generate": lambda: janus.generate(PROMPT, 2).ids,
        "decode": lambda: janus.decode(tokens),
        "answer": lambda: torch.tensor(len(janus.answer("What?", max_new_tokens=4))),
        "encode": lambda: janus.encode(images).ids,
    }[work]
    expected_result, alive = run(), []

    def exhausted(*_: object) -> None:
        large = torch.zeros(1000)
        alive.append(weakref.ref(large))
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(janus.model.get_submodule(module), "forward", exhausted)
        with pytest.raises(torch.OutOfMemoryError, match=expected) as caught:
            run()
    assert isinstance(caught.value, MemoryExhaustedError) and "\n" not in str(caught.value)
    assert "smaller dtype such as int8" in str(caught.value)
    gc.collect()
    assert [reference() for reference in alive] == [None], "freed although the exception is still held"
    assert torch.equal(run(), expected_result)


def test_other_errors_are_passed_on(janus, monkeypatch):
    def wrong(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(janus.model.gen_head, "forward", wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        janus.generate(PROMPT)
