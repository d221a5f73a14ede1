"""The steps on tensors that claim to be on CUDA or an Apple GPU: nothing meets a tensor of another device, nothing waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from absent_device import OpLog, absent_device, claim
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from janus_core.batch.drawing import PromptsStep
from janus_core.generation import text
from janus_core.generation.codes import FEATURE, HIDDEN, Drawing, Kept
from janus_core.generation.continuous import RowsStep
from janus_core.generation.execution import Execution
from janus_core.generation.image import DrawingStep, draw_codes
from janus_core.generation.jacobi import JacobiPass
from janus_core.generation.recorder import Step
from janus_core.generation.sampling import Sampling
from janus_core.model.janus import JanusModel
from janus_core.precision import Precision
from janus_core.processing import Processor
from janus_core.weights.checkpoint import find
from janus_core.weights.loading import empty_model

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
CUDA, MPS = "cuda:0", "mps:0"
PRECISIONS = [
    Precision(torch.bfloat16),
    Precision(torch.float16),
    Precision(torch.float32),
    Precision(torch.bfloat16, torch.int8),
    Precision(torch.float16, torch.int8),
    Precision(torch.bfloat16, torch.float8_e4m3fn),
]
CASES = [(d, p) for d in (CUDA, MPS) for p in PRECISIONS if d == CUDA or p.eight_bit != torch.float8_e4m3fn]
SAMPLINGS = [Sampling(), Sampling(0.0), Sampling(0.8, 5), Sampling(top_p=0.7)]


@pytest.fixture(scope="module")
def processor() -> Processor:
    source = find(TINY)
    return Processor(source, source.config())


@cache
def model_on(device: str, precision: Precision) -> tuple[JanusModel, FakeTensorMode]:
    """The tiny Janus with weights that claim to be on `device`."""
    model = empty_model(find(TINY).config(), precision)
    return model, claim(model, lambda key: device)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} {case[1].compute} {case[1].eight_bit}")
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, Precision, JanusModel]]:
    """A device, a precision, and a model of that precision on the device; nothing on an Apple GPU is in float64."""
    device, precision = request.param
    model, mode = model_on(device, precision)
    with absent_device(mode), OpLog(device) as whole:
        yield device, precision, model
    assert not [fault for fault in whole.faults if "float64" in fault]


def drawing(**settings: Any) -> Drawing:
    return Drawing(prompt=[0, 5, 6, 7, 3], pad=2, steps=9, count=3, **settings)


def stays_on(device: str, step: Step) -> None:
    with OpLog(device) as log:
        step(64)
    assert not log.faults
    assert log.launches


def test_a_step_of_drawing_and_a_pass_of_jacobi(case: tuple[str, Precision, JanusModel]) -> None:
    device, precision, model = case
    execution = Execution(torch.device(device))
    everything = precision == PRECISIONS[0]  # whose logits are as those of the others once they are tempered
    for sampling in SAMPLINGS if everything else SAMPLINGS[:1]:
        for cfg_weight in (1.0, 5.0) if everything else (5.0,):
            how = {"sampling": sampling, "cfg_weight": cfg_weight}
            stays_on(device, DrawingStep(model, drawing(**how), execution))
            stays_on(device, JacobiPass(model, drawing(**how, window=4), execution))


def test_kept_codes_are_read_and_noted_on_the_device(case: tuple[str, Precision, JanusModel]) -> None:
    device, _, model = case
    codes = torch.full((3, 9), -1)
    codes[:, :4], codes[0, 6] = 5, 6
    kept = Kept(codes, torch.zeros(3, 9, device=device))
    for make, window in ((DrawingStep, 1), (JacobiPass, 4)):
        with OpLog(device) as log:
            step = make(model, drawing(kept=kept, window=window), Execution(torch.device(device)))
        waiting = [fault.partition(":")[0] for fault in log.faults if "waits" in fault]
        assert waiting == ["codes.py", "sampling.py"], "for the codes, and after the prompt"
        stays_on(device, step)


def test_steps_of_a_drawing_with_prompts_of_their_own_and_features(case: tuple[str, Precision, JanusModel]) -> None:
    device, precision, model = case
    own = ([0, 5, 6, 7, 3], [0, FEATURE, 3], [0, HIDDEN, 6, 3])
    features = torch.empty(1, model.config.llama.hidden_size, dtype=precision.compute, device=device)
    what = replace(drawing(), prompts=own, partial=own, partial_weight=3.0, features=features.repeat(2, 1))
    stays_on(device, DrawingStep(model, what, Execution(torch.device(device))))
    stays_on(device, JacobiPass(model, replace(what, window=4), Execution(torch.device(device))))


@pytest.mark.parametrize("case", [(CUDA, PRECISIONS[0]), (MPS, PRECISIONS[0])], indirect=True, ids=[CUDA, MPS])
def test_a_drawing_waits_only_to_see_that_its_logits_are_finite(case: tuple[str, Precision, JanusModel]) -> None:
    device, _, model = case
    with OpLog(device) as log:
        ids = draw_codes(model, drawing(), Execution(torch.device(device), graphs=False))
    assert str(ids.device) == device
    waiting = [fault.partition(":")[0] for fault in log.faults if "waits" in fault]
    assert waiting == ["sampling.py"] * 2, "after the prompt, and at the end"


def test_a_token_of_an_answer_about_pictures(
    case: tuple[str, Precision, JanusModel],
    processor: Processor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, precision, model = case
    pixels = torch.empty(2, 3, 96, 96, dtype=precision.compute, device=device)
    with OpLog(device) as log:
        features = model.embed_images(pixels)
    assert not log.faults and features.dtype == precision.compute
    questions = ("is it red? " * 5, "how many?")
    prompts = [processor.question_prompt(question, 1) for question in questions]
    settings = {"image_id": processor.image, "pad": processor.pad, "device": torch.device(device)}
    embeds, mask = text.embed_prompts(model, prompts, features=features, **settings)
    text.embed_prompts(model, prompts, features=None, **settings)
    samplings = Sampling(1.0), Sampling(0.0), Sampling(0.9, min_p=0.05, repetition_penalty=1.4)
    for padded, sampling in zip((False, True, False), samplings, strict=True):
        monkeypatch.setattr(text, "bool", lambda _, padded=padded: not padded, raising=False)  # of the whole mask
        execution = Execution(torch.device(device))
        step = text.AnswerStep(model, embeds, mask, execution, new=20, seed=3, sampling=sampling)
        assert (step.visible is not None) == padded
        step.embeds.copy_(model.embed_text(step.ids))
        stays_on(device, step)


def test_a_step_of_a_list_whose_rows_are_at_different_places(
    case: tuple[str, Precision, JanusModel], processor: Processor
) -> None:
    device, precision, model = case
    execution = Execution(torch.device(device))
    rows = RowsStep(model, execution, rows=3, capacity=200, sampling=Sampling(1.0))
    for row, length in ((0, 9), (2, 7)):
        rows.fill([row], torch.empty(1, length, 64, dtype=precision.compute, device=device), [5])
    rows.leave(2)
    rows.embeds.copy_(model.embed_text(rows.ids))
    stays_on(device, rows)
    prompts = [replace(drawing(), prompt=[0, *range(5, 5 + more), 3], seed=more) for more in (1, 3, 2)]
    stays_on(device, PromptsStep(model, prompts, execution))


def test_pictures_become_codes_and_codes_pictures(case: tuple[str, Precision, JanusModel]) -> None:
    device, precision, model = case
    codes = torch.zeros(1, 36, dtype=torch.long, device=device)
    with OpLog(device) as log:
        pixels = model.gen_vision_model.decode(codes, (6, 6))
        ids = model.gen_vision_model.encode(pixels)[1]
    assert pixels.dtype == precision.vq and ids.shape == codes.shape
    assert not log.faults


def planted_wait(step: DrawingStep) -> None:
    step.ids[0, 0].item()


def planted_mask(step: DrawingStep) -> None:
    step.ids[step.ids > 0] = step.ids[0, 0]


def planted_host_tensor(step: DrawingStep) -> None:
    step.index.add_(torch.tensor(1))


def planted_copy(step: DrawingStep) -> None:
    step.ids.to("cpu")


def planted_float64(step: DrawingStep) -> None:
    step.logits.double()


@pytest.mark.parametrize(
    ("device", "plant", "fault"),
    [
        (CUDA, planted_wait, "waits"),
        (CUDA, planted_mask, "waits"),
        (CUDA, planted_host_tensor, "uses"),
        (CUDA, planted_copy, "uses"),
        (MPS, planted_float64, "float64"),
    ],
)
def test_what_a_step_must_not_do_is_found(device: str, plant: Callable[[DrawingStep], None], fault: str) -> None:
    model, mode = model_on(device, PRECISIONS[0])
    with absent_device(mode):
        with OpLog(device):
            step = DrawingStep(model, drawing(), Execution(torch.device(device)))
        with OpLog(device) as log:
            step(64)
            plant(step)
    assert log.faults and all(fault in found for found in log.faults)


@pytest.mark.parametrize(("length", "dtype"), [(64, torch.bool), (63, torch.bfloat16)])
def test_a_mask_that_costs_kernels_in_each_layer_is_found(length: int, dtype: torch.dtype) -> None:
    with absent_device():
        q, k = (torch.empty(2, 4, n, 16, dtype=torch.bfloat16, device=CUDA) for n in (3, length))
        with pytest.raises(ValueError, match="in each layer"):
            F.scaled_dot_product_attention(q, k, k, attn_mask=torch.empty(3, length, dtype=dtype, device=CUDA))


def test_a_layer_left_on_the_host_is_found() -> None:
    model = empty_model(find(TINY).config(), PRECISIONS[0])
    mode = claim(model, lambda key: "cpu" if "layers.1.mlp" in key else CUDA)
    with absent_device(mode), OpLog(CUDA), pytest.raises(RuntimeError, match="device"):
        DrawingStep(model, drawing(), Execution(torch.device(CUDA)))
