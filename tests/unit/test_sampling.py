"""The laws of a draw: its distribution, independence and filters, and that it hangs on (seed, position, code) alone.

Every statistical test has fixed seeds, so it never flickers. Its limit is the chi-square value that 1 in 10,000 sound
samplers would pass by chance, and its power is shown in the test: the same statistic refuses a sampler slightly off.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from janus_core import InputError
from janus_core.generation.sampling import Sampling, draw_tokens, guide, gumbel_noise, log1m, seed_keys

TOP_SEED = 2**64 - 1
SEEDS = [0, 1, 123456789, 2**32 - 20_000, 2**63 - 5, TOP_SEED - 39_999]
DRAWS = 40_000
CHI2_23, CHI2_225 = 57.07, 312.57  # exceeded by chance 1 time in 10,000, with 23 and 225 degrees of freedom
CODES = 24
LOGITS = torch.linspace(-3, 2, CODES)
UNFILTERED = Sampling()


def draws(logits: torch.Tensor, sampling: Sampling = UNFILTERED, seed: int = 0, position: int = 0, rows: int = DRAWS):
    """One draw from the same logits under each of the seeds seed, seed + 1, ..."""
    return draw_tokens(logits.expand(rows, -1), sampling, seed_keys(seed, rows, "cpu"), position)


def chi2(tokens: torch.Tensor, p: torch.Tensor) -> float:
    """Pearson's statistic of the drawn tokens against the probabilities p; a code that cannot be, and is, gives inf."""
    counts, expected = torch.bincount(tokens, minlength=len(p)).double(), p.double() * len(tokens)
    return float(((counts - expected) ** 2 / expected)[(counts > 0) | (expected > 0)].sum())


def dependence(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's statistic of independence of two series over 16 codes."""
    table = torch.bincount(a * 16 + b, minlength=256).view(16, 16).double()
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum())


# The distribution


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("seed", SEEDS)
def test_draws_follow_the_softmax_of_logits_over_temperature(seed, temperature):
    drawn = draws(LOGITS, Sampling(temperature), seed, position=seed % 577)
    assert chi2(drawn, (LOGITS / temperature).softmax(-1)) < CHI2_23
    # Power: temperatures 10% to either side are told apart.
    assert chi2(drawn, (LOGITS / temperature / 1.1).softmax(-1)) > CHI2_23
    assert chi2(drawn, (LOGITS / temperature * 1.1).softmax(-1)) > CHI2_23


@pytest.mark.parametrize("seed", [0, 1, 2, TOP_SEED])
def test_draws_along_one_pictures_positions_follow_it_too(seed):
    keys, positions = seed_keys(seed, 1, "cpu"), torch.arange(DRAWS)[None]
    drawn = draw_tokens(LOGITS.expand(1, DRAWS, -1), UNFILTERED, keys, positions)[0]
    for position in (0, 1, 575):
        assert drawn[position] == draw_tokens(LOGITS[None], UNFILTERED, keys, position)
    assert chi2(drawn, LOGITS.softmax(-1)) < CHI2_23
    assert chi2(drawn, (LOGITS / 1.1).softmax(-1)) > CHI2_23


@pytest.mark.slow
def test_rare_codes_of_a_published_codebook_are_drawn_as_often_as_they_should():
    """16384 codes, the last half of them with a quarter of the mass: noise must not lose the many small ones."""
    logits = torch.zeros(16384)
    logits[8192:] = -math.log(3)
    drawn = torch.cat([draws(logits, seed=seed, rows=200) for seed in range(0, 800, 200)])
    rare = int((drawn >= 8192).sum())
    assert abs(rare - 200) < 3.9 * (200 * 0.75) ** 0.5  # 1 in 10,000; three quarters or four thirds as many would fail
    assert len(drawn.unique()) > 700  # of 800 draws: 785 expected


def test_noise_is_gumbel():
    """Kolmogorov-Smirnov over 200,000 numbers: a shift of 0.02 in the cumulative distribution would show."""
    noise = gumbel_noise(seed_keys(5, 50, "cpu"), 3, 4000).double().flatten().sort().values
    assert noise.dtype == torch.float64 and bool(noise.isfinite().all())
    share = torch.arange(1, len(noise) + 1, dtype=torch.float64) / len(noise)
    distance = float(((-(-noise).exp()).exp() - share).abs().max())
    assert distance * len(noise) ** 0.5 < 2.23  # 1 in 10,000


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lag", [1, 2, 7, 575])
def test_positions_are_independent(seed, lag):
    logits = torch.zeros(16)
    first, second = (draws(logits, seed=seed, position=p) for p in (0, lag))
    assert dependence(first, second) < CHI2_225
    copied = torch.where(torch.arange(DRAWS) % 20 == 0, first, second)  # power: one draw in 20 repeated
    assert dependence(first, copied) > CHI2_225


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("lag", [1, 2, 16, 1000])
def test_neighbouring_seeds_are_independent(seed, lag):
    drawn = draws(torch.zeros(16), seed=seed)
    assert dependence(drawn[:-lag], drawn[lag:]) < CHI2_225


@pytest.mark.parametrize("seed", SEEDS)
def test_the_next_seed_is_not_this_ones_next_position(seed):
    logits = torch.zeros(16)
    here, there = draws(logits, seed=seed, position=1), draws(logits, seed=seed, position=0)
    assert dependence(here[:-1], there[1:]) < CHI2_225
    assert (here[:-1] == there[1:]).float().mean() < 0.1


def test_codes_share_no_noise():
    """Noise of any two codes, any two positions and any two seeds is uncorrelated: 5 sigma over all pairs."""
    by_seed = gumbel_noise(seed_keys(0, 200, "cpu"), 0, 2000)
    by_position = torch.cat([gumbel_noise(seed_keys(7, 1, "cpu"), position, 2000) for position in range(200)])
    for noise in (by_seed, by_position, by_seed.T[:200]):
        correlation = torch.corrcoef(noise) - torch.eye(len(noise))
        assert float(correlation.abs().max()) * noise.shape[1] ** 0.5 < 5.5


def test_seeds_that_share_half_their_bits_differ():
    drawn = [
        draws(torch.zeros(64), seed=seed, position=p, rows=1) for p in range(64) for seed in (5, 5 + 2**32, 5 + 2**63)
    ]
    a, b, c = torch.cat(drawn).view(64, 3).T
    assert (a == b).sum() < 8 and (a == c).sum() < 8 and (b == c).sum() < 8


# What a draw hangs on


def test_a_rows_draw_does_not_depend_on_the_other_rows():
    logits = torch.randn(8, 500, generator=torch.Generator().manual_seed(0))
    together = draw_tokens(logits, Sampling(), seed_keys(40, 8, "cpu"), 3)
    alone = [draw_tokens(logits[i : i + 1], Sampling(), seed_keys(40 + i, 1, "cpu"), 3) for i in range(8)]
    assert together.tolist() == torch.cat(alone).tolist()


def test_noise_of_a_code_does_not_depend_on_the_size_of_the_codebook():
    keys = seed_keys(1, 2, "cpu")
    assert torch.equal(gumbel_noise(keys, 5, 100), gumbel_noise(keys, 5, 16384)[:, :100])


def test_each_row_may_have_positions_of_its_own():
    keys = seed_keys(1, 2, "cpu")
    noise = gumbel_noise(keys, torch.tensor([[5, 0, 7], [1, 5, 2]]), 100)
    assert torch.equal(noise[0, 0], gumbel_noise(keys, 5, 100)[0])
    assert torch.equal(noise[1, 1], gumbel_noise(keys, 5, 100)[1])
    assert torch.equal(noise[1, 2], gumbel_noise(keys, 2, 100)[1])


def test_noise_is_recorded():
    """The numbers themselves: whoever changes them changes every picture that was ever made from a seed."""
    keys = torch.cat([seed_keys(seed, 1, "cpu") for seed in (0, 7, TOP_SEED)])
    expected = [[0.528211, 0.250108, -1.005858], [0.869125, 2.686880, 0.635193], [0.124653, 0.448259, -1.300667]]
    torch.testing.assert_close(gumbel_noise(keys, 575, 3), torch.tensor(expected), atol=1e-5, rtol=0)


def test_seeds_wrap_around_at_the_top():
    assert torch.equal(seed_keys(TOP_SEED, 2, "cpu")[1:], seed_keys(0, 1, "cpu"))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64, np.uint8])
@pytest.mark.filterwarnings("error")
def test_a_seed_may_be_a_numpy_integer(kind):
    assert torch.equal(seed_keys(kind(77), 3, "cpu"), seed_keys(77, 3, "cpu"))


@pytest.mark.parametrize("seed", [-1, 2**64, 2**70])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(InputError, match=f"seed is {seed}"):
        seed_keys(seed, 1, "cpu")


# Temperature, top-k, top-p, guidance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_temperature_0_is_greedy(dtype):
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    drawn = draw_tokens(logits, Sampling(0, top_k=3, top_p=0.5), seed_keys(0, 50, "cpu"), 0)
    assert torch.equal(drawn, logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-38, 1e-44, 1e-300])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_temperature_near_0_is_nearly_greedy(temperature, top_p):
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)) * 20
    drawn = draw_tokens(logits, Sampling(temperature, top_p=top_p), seed_keys(0, 50, "cpu"), 0)
    assert torch.equal(drawn, logits.argmax(-1))


def test_a_huge_temperature_is_uniform():
    assert chi2(draws(LOGITS, Sampling(1e30)), torch.full((CODES,), 1 / CODES)) < CHI2_23


@pytest.mark.parametrize("k", [1, 2, 5, 23])
def test_top_k_draws_from_the_k_likeliest_in_their_proportions(k):
    shuffled = LOGITS[torch.randperm(CODES, generator=torch.Generator().manual_seed(0))]
    drawn = draws(shuffled, Sampling(top_k=k))
    kept = shuffled.topk(k).indices
    assert set(drawn.tolist()) == set(kept.tolist())
    p = torch.zeros(CODES)
    p[kept] = shuffled[kept].softmax(-1)
    assert chi2(drawn, p) < CHI2_23


@pytest.mark.parametrize("k", [0, CODES, CODES + 1, 10**12])
def test_top_k_0_or_past_the_codebook_is_off(k):
    assert torch.equal(draws(LOGITS, Sampling(top_k=k)), draws(LOGITS))


@pytest.mark.parametrize("top_p", [0.3, 0.6, 0.9, 0.999])
def test_top_p_draws_from_the_smallest_set_of_that_mass_in_their_proportions(top_p):
    shuffled = LOGITS[torch.randperm(CODES, generator=torch.Generator().manual_seed(0))]
    p = shuffled.double().softmax(-1)
    order = p.argsort(descending=True)
    needed = int((p[order].cumsum(0) < top_p).sum()) + 1
    kept = order[:needed]
    drawn = draws(shuffled, Sampling(top_p=top_p))
    assert set(drawn.tolist()) == set(kept.tolist())
    cut = torch.zeros_like(p)
    cut[kept] = p[kept] / p[kept].sum()
    assert chi2(drawn, cut) < CHI2_23


@pytest.mark.parametrize("top_p", [0.1, 1e-3, 1e-30, 1e-50, 1e-300])
def test_a_tiny_top_p_keeps_the_likeliest(top_p):
    assert set(draws(LOGITS, Sampling(top_p=top_p), rows=200).tolist()) == {CODES - 1}


def test_top_p_counts_the_mass_that_temperature_and_top_k_leave():
    """Of the four likeliest, 0.4 0.3 0.2 0.1 after renormalising: half the mass is the first two."""
    logits = torch.cat((torch.tensor([0.4, 0.3, 0.2, 0.1]).log(), torch.full((12,), -3.0)))
    assert set(draws(logits, Sampling(top_k=4, top_p=0.5), rows=500).tolist()) == {0, 1}
    assert set(draws(2 * logits, Sampling(2.0, top_k=4, top_p=0.5), rows=500).tolist()) == {0, 1}


def test_filters_cut_each_row_on_its_own():
    logits = torch.stack((LOGITS, LOGITS.flip(0))).repeat(500, 1)
    drawn = draw_tokens(logits, Sampling(top_k=3, top_p=0.99), seed_keys(0, 1000, "cpu"), 0)
    assert set(drawn[::2].tolist()) == {21, 22, 23} and set(drawn[1::2].tolist()) == {0, 1, 2}


def test_a_filtered_draw_that_passes_is_the_unfiltered_one():
    """Filters take codes away and leave the noise alone."""
    free, cut = draws(LOGITS), draws(LOGITS, Sampling(top_k=5))
    inside = free >= CODES - 5
    assert torch.equal(free[inside], cut[inside]) and 0 < int(inside.sum()) < DRAWS


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 10**400},
        {"entropy_temperature": 10**400},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": -0.5},
        {"top_p": 1.01},
        {"top_p": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(InputError, match=f"^{next(iter(setting))} is "):
        Sampling(**setting)


def test_guidance():
    cond, uncond = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    assert guide(cond, uncond, 0).tolist() == uncond.tolist()
    assert guide(cond, uncond, 1).tolist() == cond.tolist()
    assert guide(cond, uncond, 5).tolist() == [[3.0, -2.0]]


def test_the_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = draws(LOGITS, Sampling(0.8, 10, 0.9), rows=100)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draws(LOGITS, Sampling(0.8, 10, 0.9), rows=100), first)


def test_the_noise_without_log1p_is_the_same_but_for_the_last_bits():
    """MPS has it, where log1p is inexact before torch 2.8; log(1 + x) as it stands would give infinite noise."""
    keys, positions = seed_keys(3, 4, "cpu"), torch.arange(64).expand(4, -1)
    noise = gumbel_noise(keys, positions, 16384)
    rest = torch.cat((torch.logspace(-10, -1e-3, 10_000), torch.tensor([2**-33, 1 - 2**-24])))
    exact = (-rest.double()).log1p()
    assert ((log1m(rest).double() - exact).abs() <= 3e-7 * exact.abs()).all()
    assert (1 - rest).log().neg().log().isinf().any()
    without = torch.special.expm1(-(-noise).exp())  # minus the uniform variable that the noise came from
    logits = torch.randn(4, 64, 16384, generator=torch.Generator().manual_seed(0)) * 3
    again = -(-log1m(-without)).log()
    assert (again - noise).abs().max() < 1e-4
    assert torch.equal((noise + logits).argmax(-1), (again + logits).argmax(-1))
