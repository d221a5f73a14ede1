"""Run by Triton's interpreter on the CPU, the kernels compute what the plain path does."""

from pathlib import Path

import pytest
import torch

import janus_core
from janus_core.generation import triton_kernels as kernels
from janus_core.generation.cache import DeviceCache
from janus_core.generation.codes import CodeDraw, Drawing
from janus_core.generation.execution import Execution
from janus_core.generation.image import draw_codes
from janus_core.generation.jacobi import draw_codes_jacobi
from janus_core.generation.sampling import Sampling, gumbel_noise, seed_keys
from janus_core.model.llama import rope_table
from janus_core.model.quantised import quantise

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"  # the interpreter is slow
CAPACITY = 140


def steps(dtype: torch.dtype, first: list[int], tokens: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states after a step of some tokens from the slots `first` on, of two rows that have read more.

    By the plain path, and by the kernels.
    """
    llama = janus_core.load(TINY, dtype=dtype).model.language_model.model
    generator = torch.Generator().manual_seed(0)
    read, x = (torch.randn(2, n, llama.config.hidden_size, generator=generator).to(dtype) for n in (130, tokens))
    where = torch.tensor(first)[:, None] + torch.arange(tokens)
    end = -(-(int(where.max()) + 1) // 64) * 64
    angles = rope_table(where, llama.config.head_dim, llama.config.rope_theta, dtype)
    found = []
    for fused in (False, True):
        cache = DeviceCache(llama.config, 2, CAPACITY, "cpu", dtype)
        llama(read, attend=cache.prompt())
        if fused:
            found.append(kernels.decode(llama, x.clone(), angles, where, end, cache))
        else:
            found.append(llama(x, angles, cache.step(where, end)))
    return found[0], found[1]


@torch.no_grad()
@pytest.mark.parametrize(("first", "tokens"), [([130, 2], 1), ([63, 64], 1), ([127, 128], 1), ([62, 130], 5)])
def test_a_step_is_that_of_the_plain_path(first: list[int], tokens: int) -> None:
    plain, fused = steps(torch.float64, first, tokens)
    torch.testing.assert_close(fused, plain, atol=1e-12, rtol=0)


@torch.no_grad()
def test_in_16_bits_a_step_is_as_near_to_the_truth_as_that_of_the_plain_path() -> None:
    """In float16: to bfloat16 the interpreter cuts off, where compiled code rounds."""
    truth, _ = steps(torch.float64, [130, 70])
    plain, fused = ((found - truth).norm() for found in steps(torch.float16, [130, 70]))
    assert 0 < fused < 1.2 * plain


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_an_int8_weight_is_multiplied_as_it_is_stored(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight, scale = quantise(torch.randn(37, 1500, generator=generator), torch.int8)
    x = torch.randn(rows, 1, 1500, generator=generator, dtype=torch.float64)
    product = kernels.int8_linear(x, weight, scale)
    torch.testing.assert_close(product, x @ (weight.double() * scale).T, atol=1e-10, rtol=0)


@torch.no_grad()
def test_an_int8_drawing_is_that_of_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    janus = janus_core.load(TINY, dtype="int8", compute=torch.float32)
    prompt = janus.processor.drawing_prompt("a red circle")
    what = Drawing(prompt=prompt, pad=janus.processor.pad, steps=2, seed=3, cfg_weight=1.75)
    monkeypatch.setattr(kernels, "PRODUCTS", 256)  # the interpreter runs one program after the other
    calls, own = [], kernels.int8_linear
    monkeypatch.setattr(kernels, "int8_linear", lambda *given: calls.append(given) or own(*given))
    drawn = draw_codes(janus.model, what, Execution(janus.device, kernels=kernels))
    layers = janus.model.config.llama.num_hidden_layers
    assert torch.equal(drawn, draw_codes(janus.model, what, Execution(janus.device)))
    assert len(calls) == 4 * layers


def test_what_wins_with_noise_added_is_what_wins_on_the_plain_path() -> None:
    keys, positions = seed_keys(7, 40, "cpu"), torch.arange(0, 2**31, 2**31 // 39)[:40, None]
    for spread in (0.0, 1.0):
        logits = torch.randn(40, 1, 5000, generator=torch.Generator().manual_seed(1)) * spread
        plain = (gumbel_noise(keys, positions, 5000) + logits).argmax(-1)
        assert torch.equal(kernels.draw(logits, keys, positions), plain)
        several = kernels.draw(logits.view(10, 4, -1), keys[::4].contiguous(), positions.view(10, 4))
        assert torch.equal(
            several, (gumbel_noise(keys[::4], positions.view(10, 4), 5000) + logits.view(10, 4, -1)).argmax(-1)
        )


@torch.no_grad()
@pytest.mark.parametrize("min_p", [0.0, 0.3])
@pytest.mark.parametrize(("cfg_weight", "temperature"), [(1.0, 1.0), (5.0, 0.5), (0.0, 1.3), (-1.0, 1.0)])
def test_guidance_and_min_p_are_those_of_the_plain_path(cfg_weight: float, temperature: float, min_p: float) -> None:
    sampling = Sampling(temperature, min_p=min_p)
    drawing = Drawing(prompt=[0, 1], pad=2, steps=50, count=6, cfg_weight=cfg_weight, sampling=sampling)
    logits = torch.randn(6 * len(drawing.prefixes), 3, 5000, generator=torch.Generator().manual_seed(3)).double()
    index = torch.arange(3).expand(6, 3) + torch.arange(6)[:, None]
    plain, fused = (CodeDraw(drawing, torch.device("cpu"), by)(logits, index) for by in (None, kernels))
    assert torch.equal(plain, fused) and len(plain.unique()) > 1


@torch.no_grad()
@pytest.mark.parametrize(
    ("cfg_weight", "sampling"),
    [(5.0, Sampling(min_p=0.05)), (5.0, Sampling()), (1.0, Sampling(0.8, 5)), (2.0, Sampling(0.0))],
)
def test_a_drawing_is_that_of_the_plain_path(cfg_weight: float, sampling: Sampling) -> None:
    janus = janus_core.load(TINY, dtype=torch.float64)
    prompt = janus.processor.drawing_prompt("a red circle")
    pad, cpu = janus.processor.pad, torch.device("cpu")
    what = Drawing(prompt=prompt, pad=pad, steps=4, seed=3, cfg_weight=cfg_weight, sampling=sampling)
    drawn = draw_codes(janus.model, what, Execution(cpu, kernels=kernels))
    assert torch.equal(drawn, draw_codes(janus.model, what, Execution(cpu)))


@torch.no_grad()
def test_jacobi_and_answers_are_those_of_the_plain_path() -> None:
    plain = janus_core.load(TINY, dtype=torch.float64)
    fused = janus_core.load(TINY, dtype=torch.float64, execution=Execution(torch.device("cpu"), kernels=kernels))
    pad, cpu = plain.processor.pad, plain.execution
    what = Drawing(prompt=plain.processor.drawing_prompt("a red circle"), pad=pad, steps=4, seed=3, window=3)
    drawn = draw_codes_jacobi(plain.model, what, fused.execution)
    assert torch.equal(drawn, draw_codes_jacobi(plain.model, what, cpu))
    questions = ("is it red?",), ("is it red?", "how many circles are there?")
    for batch in questions:  # the second has pads
        said = [janus.answer_batch(list(batch), max_new_tokens=3, temperature=1.0) for janus in (plain, fused)]
        assert said[0] == said[1]
