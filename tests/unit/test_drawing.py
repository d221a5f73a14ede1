"""The laws of drawing, on the tiny model: seeds, batches, guidance, progress, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import janus_core
from janus_core import InputError
from janus_core.code_colours import code_colours
from janus_core.generation.codes import unconditional
from janus_core.generation.sampling import Sampling, draw_tokens, guide, seed_keys
from janus_core.weights.loading import make_writable

PROMPT = "the red cat is in the boat"
TOP_SEED = 2**64 - 1
STEPS = 36


def test_same_seed_same_ids_and_another_seed_other_ids(janus):
    first, again, other = (janus.generate(PROMPT, count=2, seed=seed).ids for seed in (7, 7, 9))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", [0, 7, TOP_SEED - 1])
@pytest.mark.parametrize("cfg_weight", [1.0, 5.0])
def test_picture_i_of_a_batch_is_the_single_picture_of_seed_plus_i(janus64, seed, cfg_weight):
    """Past the largest seed it goes on from 0."""
    batch = janus64.generate(PROMPT, count=4, seed=seed, cfg_weight=cfg_weight)
    single = [janus64.generate(PROMPT, seed=(seed + i) % 2**64, cfg_weight=cfg_weight) for i in range(4)]
    assert batch.ids.tolist() == [tokens.ids[0].tolist() for tokens in single]
    assert len({tuple(row) for row in batch.ids.tolist()}) == 4


def test_a_seed_may_be_a_numpy_integer(janus):
    assert torch.equal(janus.generate(PROMPT, seed=np.int64(7)).ids, janus.generate(PROMPT, seed=7).ids)


def test_tokens_say_what_they_are(janus):
    tokens = janus.generate(PROMPT, count=3)
    assert tokens.ids.shape == (3, STEPS) and tokens.ids.dtype == torch.long
    assert tokens.grid == (6, 6) and tokens.codebook == janus.codebook and len(tokens) == 3
    assert tokens.ids.min() >= 0 and tokens.ids.max() < 128


def test_no_global_state_is_read_or_changed(janus):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        results.append(
            (janus.generate(PROMPT, seed=3).ids.tolist(), janus.answer("What?", max_new_tokens=4, temperature=1))
        )
        after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert results[0] == results[1]


def test_results_do_not_depend_on_the_default_dtype(janus):
    expected = janus.generate(PROMPT, seed=7).ids
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(janus.generate(PROMPT, seed=7).ids, expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_needs_or_keeps_gradients(janus):
    with torch.enable_grad():
        tokens = janus.generate(PROMPT)
        assert not janus.decode(tokens).requires_grad
        assert not janus.encode(janus.decode(tokens)).ids.requires_grad


@torch.no_grad()
def whole_logits(janus, prompt: list[int], ids: torch.Tensor) -> torch.Tensor:
    """Logits [36, codes] of each step, from one pass over prompt and ids without any cache."""
    model = janus.model
    embeds = torch.cat((model.embed_text(torch.tensor([prompt])), model.embed_codes(ids[None, :-1])), dim=1)
    return model.gen_head(model.language_model.model(embeds)[0, -STEPS:])


@pytest.mark.parametrize(
    ("cfg_weight", "sampling"),
    [
        (1.0, Sampling(1.0)),
        (1.0, Sampling(0.0)),
        (5.0, Sampling(1.0)),
        (5.0, Sampling(0.0)),
        (3.0, Sampling(0.7, top_k=10)),
        (2.0, Sampling(1.3, top_p=0.5)),
        (0.0, Sampling(1.0)),
    ],
)
def test_every_step_is_the_law_applied_to_the_uncached_model(janus64, cfg_weight, sampling):
    """From guided logits of the whole sequence, noise of (seed, step) and filters; at weight 1 from cond alone."""
    drawn = janus64.generate(
        PROMPT,
        2,
        seed=11,
        cfg_weight=cfg_weight,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    ).ids
    prompt = janus64.processor.drawing_prompt(PROMPT)
    for i, ids in enumerate(drawn):
        logits = whole_logits(janus64, prompt, ids)
        if cfg_weight != 1:
            logits = guide(logits, whole_logits(janus64, unconditional(prompt, janus64.processor.pad), ids), cfg_weight)
        keys = seed_keys(11 + i, 1, "cpu")
        expected = [int(draw_tokens(logits[step : step + 1], sampling, keys, step)) for step in range(STEPS)]
        assert ids.tolist() == expected


def test_guidance_and_temperature_change_the_picture(janus):
    base = janus.generate(PROMPT, seed=7).ids
    for changes in ({"cfg_weight": 1.0}, {"temperature": 0.3}, {"top_k": 2}, {"top_p": 0.1}):
        assert not torch.equal(janus.generate(PROMPT, seed=7, **changes).ids, base)
    assert not torch.equal(janus.generate("a dog", seed=7).ids, base)


def test_the_unconditional_prompt_keeps_bos_and_begin_of_image(janus):
    prompt = janus.processor.drawing_prompt(PROMPT)
    assert unconditional(prompt, 286) == [284, *[286] * (len(prompt) - 2), 287]


def test_progress_is_called_after_each_step_with_the_ids_so_far(janus):
    calls = []
    drawn = janus.generate(PROMPT, count=2, progress=lambda *call: calls.append(call)).ids
    assert [(step, total) for step, total, _ in calls] == [(i, STEPS) for i in range(1, STEPS + 1)]
    for step, _, ids in calls:
        assert torch.equal(ids, drawn[:, :step])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("last", [1, 5, STEPS])
def test_progress_may_raise_to_stop_at_once_and_the_next_run_is_as_fresh(janus, last):
    steps = []
    expected = janus.generate(PROMPT, seed=7).ids

    def stop(step: int, total: int, ids: torch.Tensor) -> None:
        if step == last:
            raise Stopped

    handle = janus.model.gen_head.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises(Stopped):
        janus.generate(PROMPT, seed=7, progress=stop)
    handle.remove()
    assert len(steps) == last
    assert torch.equal(janus.generate(PROMPT, seed=7).ids, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_draw_and_mostly_agree_with_float32(copy, janus, dtype):
    other = janus_core.load(copy(), dtype=dtype)
    ours, theirs = (model.generate(PROMPT, count=8, seed=5) for model in (other, janus))
    # One early difference changes all that follows, so compare the first codes.
    assert (ours.ids[:, :3] == theirs.ids[:, :3]).float().mean() > 0.7
    assert torch.equal(other.generate(PROMPT, count=8, seed=5).ids, ours.ids)
    assert bool(other.decode(ours).isfinite().all())


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"count": 0}, "batch size is 0"),
        ({"count": -3}, "batch size is -3"),
        ({"count": 2**62}, "batch size is 4611686018427387904, more than the limit"),
        ({"cfg_weight": float("nan")}, "CFG weight is nan"),
        ({"cfg_weight": float("inf")}, "CFG weight is inf"),
        ({"cfg_weight": 10**400}, "CFG weight is 1000"),
        ({"cfg_end": 10**400}, "CFG weight is 1000"),
        ({"cfg_power": 10**400}, "cfg_power is 1000"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
    ],
)
def test_settings_out_of_range_are_refused(janus, setting, match):
    with pytest.raises(InputError, match=match):
        janus.generate(PROMPT, **setting)


@pytest.mark.parametrize(
    "use", [lambda it, name: it.generate(PROMPT, sampler=name), lambda _, name: janus_core.load(dtype=name)]
)
def test_a_name_of_any_length_is_said_in_short(janus, use):
    with pytest.raises(InputError, match="There is no (sampler|dtype) 'xxx") as caught:
        use(janus, "x" * 10_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["cfg_weight", "cfg_end", "cfg_power", "temperature", "entropy_temperature"])
def test_a_whole_number_of_more_than_64_bits_draws_as_the_equal_float(janus, name):
    expected = janus.generate(PROMPT, **({"cfg_end": 3.0} | {name: float(2**70)})).ids
    assert torch.equal(janus.generate(PROMPT, **({"cfg_end": 3.0} | {name: 2**70})).ids, expected)


def test_a_prompt_past_the_context_is_refused_with_the_count_of_tokens(janus):
    fits = "a" * (1024 - STEPS - 8)
    length = len(janus.processor.drawing_prompt(fits))
    with pytest.raises(
        InputError, match=rf"prompt takes {length + 40} tokens .* {length + 40 + STEPS} in all, .* 1024"
    ):
        janus.generate(fits + "z" * 40)
    fits += "z" * (1024 - STEPS - length)
    assert len(janus.processor.drawing_prompt(fits)) + STEPS == 1024
    assert janus.generate(fits, cfg_weight=1).ids.shape == (1, STEPS)
    with pytest.raises(InputError, match="1025 in all"):
        janus.generate(fits + "z")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_that_computes_nan_fails_instead_of_drawing_or_telling_noise(copy, dtype):
    """Broken weights, or float16 that overflows: an error, not a picture of code 0 or a word repeated."""
    janus = janus_core.load(copy(), dtype=dtype)
    make_writable(janus.model.language_model.model.norm).weight.data[3] = float("nan")
    errors = (InputError, janus_core.CheckpointError, ArithmeticError)
    with pytest.raises(errors, match="NaN|finite"):
        janus.generate(PROMPT)
    with pytest.raises(errors, match="NaN|finite"):
        janus.answer("What?", max_new_tokens=3)


@pytest.mark.parametrize("layer", ["decoder.conv_out", "quantize.embedding"])
def test_a_decoder_that_computes_nan_fails_instead_of_painting_black(copy, layer):
    janus = janus_core.load(copy())
    tokens = janus.generate(PROMPT)
    make_writable(janus.model.gen_vision_model.get_submodule(layer)).weight.fill_(float("nan"))
    with pytest.raises(janus_core.CheckpointError, match="computes NaN"):
        janus.decode(tokens)
    with pytest.raises(janus_core.CheckpointError, match="computes NaN"):  # the preview's colours
        code_colours(janus)
