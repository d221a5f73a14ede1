"""The self-check, run by Triton's interpreter: right kernels pass, and kernels that are wrong by one line are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import janus_core
from janus_core.generation import self_check
from janus_core.generation import triton_kernels as kernels
from janus_core.generation.codes import Drawing
from janus_core.generation.execution import Execution
from janus_core.generation.image import draw_codes

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"  # the interpreter is slow
CPU = torch.device("cpu")
PLAIN = Execution(CPU, kernels=None)


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter runs one program after the other."""
    monkeypatch.setattr(kernels, "PRODUCTS", 1024)
    monkeypatch.setattr(self_check, "DRAWS", 8)
    monkeypatch.setattr(self_check, "TIMED", 1)
    monkeypatch.setattr(self_check, "COMPARED", 2)


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load(TINY, dtype=torch.float64)


def examine(janus: janus_core.Janus) -> self_check.Report:
    embeds = janus.model.embed_text(torch.tensor([janus.processor.drawing_prompt("a red circle")] * 2))
    return self_check.examine(PLAIN, janus.model.language_model.model, embeds, kernels)


def test_right_kernels_are_timed_beside_plain_steps(janus: janus_core.Janus) -> None:
    report = examine(janus)
    assert not report.faults and set(report.seconds) == {self_check.PLAIN, self_check.TRITON}
    assert min(report.seconds.values()) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_right_kernels_pass_in_each_type(janus: janus_core.Janus, dtype: torch.dtype) -> None:
    """In bfloat16 too, once compiled: the interpreter cuts off where that rounds."""
    llama = janus_core.load(TINY, dtype=dtype).model.language_model.model
    self_check.compare_kernels(kernels, llama, dtype, CPU)


Wrong = Callable[..., Any]


def wrong_norm(own: Wrong) -> Wrong:
    return lambda stream, x, norm: own(stream, x, norm) * 1.001


def wrong_mlp(own: Wrong) -> Wrong:
    return lambda both: own(torch.cat(both.chunk(2, -1)[::-1], -1))


def wrong_attention(own: Wrong) -> Wrong:
    return lambda qkv, rope, slots, end, cache, layer: own(qkv, rope, slots - 1, end, cache, layer)


def wrong_product(own: Wrong) -> Wrong:
    return lambda x, weight, scale: own(x, weight, scale.flip(0))


def wrong_draw(own: Wrong) -> Wrong:
    return lambda logits, keys, position, **settings: own(logits, keys, position + 1, **settings)


@pytest.mark.parametrize(
    ("kernel", "wrong", "named"),
    [
        ("_add_norm", wrong_norm, "norm"),
        ("_silu_mul", wrong_mlp, "MLP"),
        ("_attend", wrong_attention, "attention"),
        ("int8_linear", wrong_product, "int8 product"),
        ("draw", wrong_draw, "draws"),
    ],
)
def test_a_kernel_that_is_wrong_is_refused_and_the_picture_is_right(
    janus: janus_core.Janus, monkeypatch: pytest.MonkeyPatch, kernel: str, wrong: Callable[[Wrong], Wrong], named: str
) -> None:
    monkeypatch.setattr(kernels, kernel, wrong(getattr(kernels, kernel)))
    report = examine(janus)
    assert named in report.faults[self_check.TRITON] and report.execution == Execution(CPU, graphs=False, kernels=None)
    assert str(report).startswith("plain steps; Triton off: ")
    prompt = janus.processor.drawing_prompt("a red circle")
    what = Drawing(prompt=prompt, pad=janus.processor.pad, steps=3, seed=3)
    assert torch.equal(draw_codes(janus.model, what, report.execution), draw_codes(janus.model, what, PLAIN))


def test_steps_that_are_wrong_together_are_refused(janus: janus_core.Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    own = kernels.decode
    late = lambda llama, x, rope, slots, end, cache: own(llama, x, rope, slots - 1, end, cache)
    monkeypatch.setattr(kernels, "decode", late)
    assert "hidden state differs" in examine(janus).faults[self_check.TRITON]


def test_kernels_that_cannot_be_built_are_off_with_the_reason(
    janus: janus_core.Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(kernels, "_add_norm", fails)
    assert examine(janus).faults == {self_check.TRITON: "Failed to find C compiler. Please specify"}


def test_without_memory_for_it_the_check_decides_nothing(
    janus: janus_core.Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "_add_norm", fails)
    with pytest.raises(torch.OutOfMemoryError):
        examine(janus)
