"""When the device's kernels are checked, and what is remembered. The check itself: tests/kernels/test_self_check.py."""

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import janus_core
from janus_core.generation import self_check
from janus_core.generation.execution import Execution

CUDA = Execution(torch.device("cuda"))
Decide = Callable[[], Execution]


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load()


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Execution]:
    """The checks that run on a CUDA device with all weights on it; each finds plain steps best."""
    ran: list[Execution] = []

    def examine(plain: Execution, *_: object) -> self_check.Report:
        ran.append(plain)
        return self_check.Report(replace(plain, graphs=False), {self_check.PLAIN: 0.02, self_check.GRAPH: 0.03})

    monkeypatch.setattr(self_check, "examine", examine)
    monkeypatch.setattr(self_check, "_decided", {})
    monkeypatch.setattr(Execution, "weights_ready", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A card")
    return ran


def decide(janus: janus_core.Janus, execution: Execution) -> Execution:
    return self_check.decide(execution, janus.model.language_model.model, torch.zeros(2, 3, 8))


def test_a_device_is_checked_once_and_one_line_says_so(
    janus: janus_core.Janus, checks: list[Execution], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        decided = [decide(janus, CUDA) for _ in range(3)]
    assert decided == [replace(CUDA, graphs=False, kernels=None)] * 3 and len(checks) == 1
    assert caplog.messages == ["Janus: checked on A card: plain steps 1.5 times the plain graph"]


def test_cpus_and_what_the_caller_chose_are_not_checked(janus: janus_core.Janus, checks: list[Execution]) -> None:
    cpu = Execution(torch.device("cpu"))
    assert decide(janus, cpu) == replace(cpu, kernels=None)
    assert decide(janus, chosen := replace(CUDA, kernels=None)) == chosen
    assert not checks


def test_the_switch_leaves_plain_kernels_and_graphs(
    janus: janus_core.Janus, checks: list[Execution], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(self_check.SWITCH, "plain")
    assert decide(janus, CUDA) == replace(CUDA, kernels=None) and not checks


def test_weights_that_are_partly_elsewhere_are_checked_when_they_are_back(
    janus: janus_core.Janus, checks: list[Execution], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Execution, "weights_ready", lambda *_: False)
        assert decide(janus, CUDA) == replace(CUDA, kernels=None) and not checks
    decide(janus, CUDA)
    assert len(checks) == 1


def test_a_check_without_memory_for_it_is_done_again(
    janus: janus_core.Janus, checks: list[Execution], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(self_check, "examine", fails)
        assert decide(janus, CUDA) == replace(CUDA, kernels=None)
    decide(janus, CUDA)
    assert len(checks) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_on_a_card_no_way_computes_other_numbers(dtype: torch.dtype) -> None:
    janus = janus_core.load(device="cuda", dtype=dtype)
    embeds = janus.model.embed_text(torch.tensor([janus.processor.drawing_prompt("a red circle")] * 2, device="cuda"))
    plain = replace(janus.execution, kernels=None)
    kernels = self_check.triton_kernels()
    report = self_check.examine(plain, janus.model.language_model.model, embeds, kernels)
    assert not report.faults and self_check.GRAPH in report.seconds
