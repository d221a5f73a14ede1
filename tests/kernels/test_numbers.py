"""Run by Triton's interpreter on the CPU, the kernels compute what the plain path does."""

import pytest
import torch

import janus_core
from janus_core.generation import triton_kernels as kernels
from janus_core.generation.cache import DeviceCache
from janus_core.generation.execution import Execution
from janus_core.generation.image import Drawing, draw_codes
from janus_core.generation.sampling import Sampling, gumbel_noise, seed_keys

CAPACITY = 140


def steps(dtype: torch.dtype, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states after a step at `positions` of two rows that have read more, by the plain path and by the kernels."""
    llama = janus_core.load(dtype=dtype).model.language_model.model
    generator = torch.Generator().manual_seed(0)
    read, x = (torch.randn(2, n, llama.config.hidden_size, generator=generator).to(dtype) for n in (130, 1))
    where = torch.tensor(positions)[:, None]
    end = min(-(-(max(positions) + 1) // 64) * 64, CAPACITY)
    found = []
    for fused in (False, True):
        cache = DeviceCache(llama.config, 2, CAPACITY, "cpu", dtype)
        llama(read, attend=cache.prompt())
        if fused:
            found.append(kernels.decode(llama, x.clone(), where, end, cache))
        else:
            found.append(llama(x, where, cache.at(where, torch.arange(end) <= where[:, None, :, None])))
    return found[0], found[1]


@torch.no_grad()
@pytest.mark.parametrize("positions", [[130, 2], [63, 64], [127, 128]])
def test_a_step_is_that_of_the_plain_path(positions: list[int]) -> None:
    plain, fused = steps(torch.float64, positions)
    torch.testing.assert_close(fused, plain, atol=1e-12, rtol=0)


@torch.no_grad()
def test_in_16_bits_a_step_is_as_near_to_the_truth_as_that_of_the_plain_path() -> None:
    """In float16: to bfloat16 the interpreter cuts off, where compiled code rounds."""
    truth, _ = steps(torch.float64, [130, 70])
    plain, fused = ((found - truth).norm() for found in steps(torch.float16, [130, 70]))
    assert 0 < fused < 1.2 * plain


def test_what_wins_with_noise_added_is_what_wins_on_the_plain_path() -> None:
    keys, positions = seed_keys(7, 40, "cpu"), torch.arange(0, 2**31, 2**31 // 39)[:40, None]
    for spread in (0.0, 1.0):
        logits = torch.randn(40, 1, 5000, generator=torch.Generator().manual_seed(1)) * spread
        plain = (gumbel_noise(keys, positions, 5000) + logits).argmax(-1)
        assert torch.equal(kernels.noisy_argmax(logits, keys, positions), plain)


@torch.no_grad()
@pytest.mark.parametrize(("cfg_weight", "sampling"), [(5.0, Sampling()), (1.0, Sampling(0.8, 5)), (2.0, Sampling(0.0))])
def test_a_drawing_is_that_of_the_plain_path(cfg_weight: float, sampling: Sampling) -> None:
    janus = janus_core.load(dtype=torch.float64)
    prompt = janus.processor.drawing_prompt("a red circle")
    pad, cpu = janus.processor.pad, torch.device("cpu")
    what = Drawing(prompt=prompt, pad=pad, steps=4, seed=3, cfg_weight=cfg_weight, sampling=sampling)
    drawn = draw_codes(janus.model, what, Execution(cpu, kernels=kernels))
    assert torch.equal(drawn, draw_codes(janus.model, what, Execution(cpu)))
