"""CUDA graphs without CUDA: replays of a step's ops, without its Python, draw and say what the step itself does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from recorded import CPU, Stream, drawing, record_on_tapes, say

import janus_core
from janus_core.batch.answers import answer_all
from janus_core.batch.drawing import draw_all
from janus_core.batch.items import Item
from janus_core.generation import recorder, self_check
from janus_core.generation.codes import Kept
from janus_core.generation.execution import Execution
from janus_core.generation.image import DrawingStep, draw_codes
from janus_core.generation.jacobi import draw_codes_jacobi
from janus_core.generation.sampling import Sampling

SAMPLINGS = [Sampling(), Sampling(min_p=0.2), Sampling(0.8, 5), Sampling(top_p=0.7), Sampling(0.0)]


@pytest.fixture(scope="module")
def exact() -> janus_core.Janus:
    return janus_core.load(dtype=torch.float64)


@pytest.mark.parametrize(
    ("cfg_weight", "count", "sampling"),
    [(weight, count, s) for s in SAMPLINGS for weight, count in ((1.0, 1), (5.0, 3))],
)
def test_replays_draw_what_the_plain_sampler_does(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, cfg_weight: float, count: int, sampling: Sampling
) -> None:
    what = replace(drawing(exact, "a red circle", cfg_weight, sampling), count=count, steps=20)
    expected = draw_codes(exact.model, what, CPU)
    tapes = record_on_tapes(monkeypatch, bucket=8)
    assert torch.equal(draw_codes(exact.model, what, CPU), expected)
    assert len(tapes) > 2
    tapes.clear()
    assert torch.equal(draw_codes_jacobi(exact.model, replace(what, window=4), CPU), expected)
    assert tapes


@pytest.mark.parametrize("lead", [0, 7])
def test_replays_keep_codes_as_the_plain_sampler_does(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, lead: int
) -> None:
    what = replace(drawing(exact, "a red circle"), count=2, steps=20)
    codes = torch.full((2, 20), -1)
    codes[:, :lead], codes[:, 12:15] = 3, 4

    def drawn(draw: Callable[..., torch.Tensor], window: int = 1) -> list[torch.Tensor]:
        kept = Kept(codes, torch.zeros(codes.shape))
        return [draw(exact.model, replace(what, kept=kept, window=window), CPU), kept.likelihood]

    expected = drawn(draw_codes)
    tapes = record_on_tapes(monkeypatch, bucket=8)
    for found in (drawn(draw_codes), drawn(draw_codes_jacobi, 4)):
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])
    assert tapes


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(0.9, min_p=0.05, repetition_penalty=1.4)])
def test_replays_say_what_the_plain_steps_do(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, sampling: Sampling
) -> None:
    expected = say(exact, sampling)
    tapes = record_on_tapes(monkeypatch, bucket=8)
    assert say(exact, sampling) == expected
    assert len(tapes) > 3


def test_replays_work_through_lists_as_plain_steps_do(exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of several lengths in two rows, which are filled anew while graphs are there, and pictures of several prompts."""
    prompts = ["a red circle", "three green squares and a blue ring", "a ring"]

    def work() -> tuple[dict[str, str], list[torch.Tensor]]:
        answers: dict[str, str] = {}
        pictures: list[torch.Tensor] = []
        asked = [Item(str(i), "is it red? " * (1 + i % 3), seed=i) for i in range(6)]
        note = lambda item, answer: answers.setdefault(item.key, answer)
        answer_all(exact, asked, rows=2, max_new_tokens=30, temperature=2.0, finished=note, failed=print)
        some = [Item(str(i), prompt, seed=i) for i, prompt in enumerate(prompts)]
        draw_all(exact, some, batch=3, finished=lambda _, drawn: pictures.extend(drawn), failed=print)
        return answers, pictures

    expected = work()
    assert expected[0] == {
        str(i): exact.answer("is it red? " * (1 + i % 3), max_new_tokens=30, temperature=2.0, seed=i) for i in range(6)
    }
    tapes = record_on_tapes(monkeypatch, bucket=8)
    answers, pictures = work()
    assert answers == expected[0] and all(map(torch.equal, pictures, expected[1]))
    assert len(tapes) > 5


class CountsInPython(DrawingStep):
    """Every second call uses other noise. The count is in Python, which no replay runs."""

    calls = 0

    def __call__(self, end: int) -> None:
        self.calls += 1
        if self.calls % 2:
            self.draw.keys.add_(1)
        super().__call__(end)


class KeepsNewTensors(DrawingStep):
    """Its index is a new tensor after each step, which a graph does not know."""

    def __call__(self, end: int) -> None:
        super().__call__(end)
        self.index = self.index + 0


@torch.no_grad()
@pytest.mark.parametrize(("step", "right"), [(DrawingStep, True), (CountsInPython, False), (KeepsNewTensors, False)])
def test_a_step_whose_state_is_not_in_its_tensors_is_found(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, step: type[DrawingStep], right: bool
) -> None:
    def drawn(stream: object) -> torch.Tensor:
        state = step(exact.model, replace(drawing(exact, "a boat"), count=1), CPU)
        run = recorder.GraphedStep(state, stream)  # type: ignore[arg-type]
        for drawn in range(1, 25):
            run(state.start + drawn)
        return state.ids

    record_on_tapes(monkeypatch, bucket=8)
    expected = drawn(None)
    try:
        found = torch.equal(drawn(object()), expected)
    except (IndexError, RuntimeError):  # from what fills a graph's own memory
        found = False
    assert found == right


@torch.no_grad()
def test_a_step_that_waits_for_the_device_cannot_be_recorded(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Waits(DrawingStep):
        def __call__(self, end: int) -> None:
            super().__call__(end)
            self.ids[0, 0].item()

    record_on_tapes(monkeypatch, bucket=64)
    state = Waits(exact.model, replace(drawing(exact, "a boat"), count=1), CPU)
    run = recorder.GraphedStep(state, object())  # type: ignore[arg-type]
    for drawn in (1, 2):
        run(state.start + drawn)
    assert not recorder.GraphedStep.possible and "not available" in caplog.text


@torch.no_grad()
@pytest.mark.parametrize("right", [True, False])
def test_the_self_check_refuses_graphs_that_replay_something_else(
    exact: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    def count_in_python(step: self_check._Step, end: int) -> None:
        step.capacity += 1
        step.slots.fill_(step.capacity - 45)
        step.hidden.copy_(step.context.step(step.embeds.clone(), step.slots, end))

    record_on_tapes(monkeypatch, bucket=64)
    monkeypatch.setattr(Execution, "uses_graphs", lambda execution, _: execution.graphs)
    streams = lambda device, enabled: nullcontext(Stream() if enabled else None)
    monkeypatch.setattr(self_check, "side_stream", streams)
    if not right:
        monkeypatch.setattr(self_check._Step, "__call__", count_in_python)
    embeds = exact.model.embed_text(torch.arange(20)[None])
    report = self_check.examine(replace(CPU, kernels=None), exact.model.language_model.model, embeds, None)
    assert (self_check.GRAPH in report.seconds) == right and report.execution.graphs in (right, False)
    assert right or "hidden state differs" in report.faults[self_check.GRAPH]
