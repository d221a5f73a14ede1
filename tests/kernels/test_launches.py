"""How many kernels a step of Janus-Pro launches on CUDA, and the bytes it reads: what speed on a GPU depends on.

Counted on tensors that only claim to be there. A change here is a change of speed, for better or worse.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from absent_device import OpLog, absent_device, claim
from torch._subclasses import FakeTensorMode

from janus_core.bench.measure import step_bytes
from janus_core.config import JanusConfig
from janus_core.generation import triton_kernels as kernels
from janus_core.generation.codes import Drawing
from janus_core.generation.execution import Execution
from janus_core.generation.image import DrawingStep
from janus_core.generation.jacobi import JacobiPass
from janus_core.generation.recorder import Step
from janus_core.generation.sampling import Sampling
from janus_core.generation.text import AnswerStep
from janus_core.model.janus import JanusModel
from janus_core.precision import Precision
from janus_core.weights.loading import empty_model

CUDA = "cuda:0"
PROMPT, CODES = 24, 576
# Launches with PyTorch's kernels and with Triton's; gigabytes at the middle of a picture.
TABLE = {
    ("Janus-Pro-1B", "bf16"): (
        {"drawing": (520, 258), "jacobi, window 8": (674, 280), "answer": (447, 251)},
        {"weights": 2.55, "KV cache": 0.123},
    ),
    ("Janus-Pro-7B", "bf16"): (
        {"drawing": (628, 318), "jacobi, window 8": (782, 340), "answer": (555, 311)},
        {"weights": 12.344, "KV cache": 0.307},
    ),
    ("Janus-Pro-7B", "int8"): (
        {"drawing": (868, 318), "jacobi, window 8": (1022, 580), "answer": (795, 311)},
        {"weights": 6.278, "KV cache": 0.307},
    ),
}


@cache
def model_of(name: str, dtype: str) -> tuple[JanusModel, FakeTensorMode]:
    model = empty_model(JanusConfig.preset(name), Precision.of(dtype))
    return model, claim(model, lambda key: CUDA)


class Launch:
    """Stands for a Triton kernel: it takes tensors of one device, all contiguous but those whose strides it gets."""

    def __init__(self, kernel: Any, counts: dict[str, int]):
        self.kernel, self.counts = kernel, counts

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **_: Any) -> None:
            given = dict(zip(self.kernel.arg_names, args, strict=False))
            tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
            assert {str(tensor.device) for tensor in tensors.values()} == {CUDA}
            loose = {name for name, tensor in tensors.items() if not tensor.is_contiguous()}
            assert not loose - {"keys", "values", "logits"}
            self.counts[self.kernel.__name__] = self.counts.get(self.kernel.__name__, 0) + 1

        return launch


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Grows with each launch of a Triton kernel, none of which runs."""
    found: dict[str, int] = {}
    for name, kernel in list(vars(kernels).items()):
        if name.endswith("_kernel"):
            monkeypatch.setattr(kernels, name, Launch(kernel, found))
    return found


def launches(start: Callable[[Execution], Step], counts: dict[str, int]) -> tuple[int, int]:
    """Those of one step with PyTorch's kernels and with Triton's; neither waits, nor leaves the device."""
    found = []
    for how in (None, kernels):
        with OpLog(CUDA):
            step = start(Execution(torch.device(CUDA), kernels=how))
        counts.clear()
        with OpLog(CUDA) as log:
            step(640)
        assert not log.faults
        found.append(log.launches + sum(counts.values()))
    return found[0], found[1]


def drawing(model: JanusModel, execution: Execution, window: int = 1) -> Step:
    what = Drawing(prompt=[0] * PROMPT, pad=2, steps=CODES, window=window)
    return (JacobiPass if window > 1 else DrawingStep)(model, what, execution)


def answer(model: JanusModel, execution: Execution) -> Step:
    embeds = torch.empty(1, 640, model.config.llama.hidden_size, device=CUDA, dtype=torch.bfloat16)
    mask = torch.ones(1, 640, dtype=torch.bool, device=CUDA)
    settings = {"new": 256, "seed": 0, "sampling": Sampling(0.0)}
    return AnswerStep(model, embeds, mask, execution, **settings)


@pytest.mark.parametrize("size", TABLE, ids=" ".join)
def test_launches_of_a_step_with_pytorchs_kernels_and_with_tritons(
    size: tuple[str, str], counts: dict[str, int]
) -> None:
    model, mode = model_of(*size)
    with absent_device(mode):
        found = {
            "drawing": launches(partial(drawing, model), counts),
            "jacobi, window 8": launches(partial(drawing, model, window=8), counts),
            "answer": launches(partial(answer, model), counts),
        }
    print(*size, found)
    assert found == TABLE[size][0]


@pytest.mark.parametrize("size", TABLE, ids=" ".join)
def test_gigabytes_that_a_step_of_drawing_reads(size: tuple[str, str]) -> None:
    model, _ = model_of(*size)
    empty, middle = (step_bytes(model, 1, context) for context in (0, PROMPT + CODES // 2))
    found = {"weights": round(empty / 1e9, 3), "KV cache": round((middle - empty) / 1e9, 3)}
    print(*size, found)
    assert found == TABLE[size][1]
