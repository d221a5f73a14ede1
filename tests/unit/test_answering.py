"""The laws of answering, on the tiny model: stopping, batches, pictures, turns, progress, and what is refused."""

from __future__ import annotations

import pytest
import torch

import janus_core
from janus_core import InputError
from janus_core.generation.sampling import Sampling, draw_tokens, seed_keys
from janus_core.generation.text import answer_ids, embed_prompts
from janus_core.weights.loading import make_writable

QUESTIONS = ["What?", "How many red cats are in the boat, and is there an owl?", "Is it night?"]
TAG = "<image_placeholder>"


def new_ids(janus, questions, images=None, steps=16, eos=285, seed=0, sampling=None, progress=None):
    """Ids of the answers; `images` gives each question's pictures."""
    processor = janus.processor
    images = images or [[]] * len(questions)
    prompts = [processor.question_prompt(q, len(batch)) for q, batch in zip(questions, images, strict=True)]
    flat = [picture for batch in images for picture in batch]
    features = None
    if flat:
        pixels = torch.cat([processor.pixels(picture[None]) for picture in flat])
        features = janus.model.embed_images(pixels.to(janus.dtype))
    special = {"image_id": processor.image, "pad": processor.pad}
    embeds, mask = embed_prompts(janus.model, prompts, **special, features=features, device=janus.device)
    settings = {"eos": eos, "max_new_tokens": steps, "seed": seed, "sampling": sampling or Sampling(0)}
    return answer_ids(janus.model, embeds, mask, janus.execution, **settings, progress=progress)


@pytest.fixture
def calls(janus):
    """Grows by one with each step of the model's text head."""
    counted: list[int] = []
    handle = janus.model.language_model.lm_head.register_forward_hook(lambda *_: counted.append(1))
    yield counted
    handle.remove()


def test_an_answer_stops_at_eos_and_leaves_it_out(janus, pictures, calls):
    free = new_ids(janus, ["What?"], [pictures()])[0]
    assert len(free) == 16
    stop = next(token for i, token in enumerate(free) if i > 4 and token not in free[:i])
    calls.clear()
    assert new_ids(janus, ["What?"], [pictures()], eos=stop)[0] == free[: free.index(stop)]
    assert len(calls) == free.index(stop) + 1


def test_eos_at_once_is_an_empty_answer(janus, monkeypatch, calls):
    monkeypatch.setattr(janus.processor, "eos", new_ids(janus, ["What?"])[0][0])
    calls.clear()
    assert janus.answer("What?") == ""
    assert len(calls) == 1


def test_nan_that_comes_later_is_an_error_and_no_answer(copy):
    janus = janus_core.load(copy())
    words = new_ids(janus, ["What?"])[0]
    make_writable(janus.model.language_model.model.embed_tokens).weight.data[words[1]] = float("nan")
    prompt = janus.processor.question_prompt("What?", 0)
    assert words[1] not in (*prompt, words[0])
    with pytest.raises(janus_core.CheckpointError, match="NaN"):
        janus.answer("What?")


def test_rows_stop_each_at_its_own_eos(janus64):
    free = [new_ids(janus64, [q], sampling=Sampling(1.0), seed=30 + i)[0] for i, q in enumerate(QUESTIONS)]
    stop = next(token for token in free[0][2:] if not all(token in row for row in free))
    batch = new_ids(janus64, QUESTIONS, eos=stop, sampling=Sampling(1.0), seed=30)
    assert batch == [row[: row.index(stop)] if stop in row else row for row in free]
    assert len({len(row) for row in batch}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_a_left_padded_batch_equal_the_questions_alone(janus64, pictures, temperature):
    """Different lengths, with two, one and no pictures; row i has seed + i."""
    images = [pictures(2, seed=1), pictures(1, seed=2), []]
    sampling = Sampling(temperature)
    batch = new_ids(janus64, QUESTIONS, images, seed=5, sampling=sampling)
    alone = [
        new_ids(janus64, [q], [im], seed=5 + i, sampling=sampling)[0]
        for i, (q, im) in enumerate(zip(QUESTIONS, images, strict=True))
    ]
    assert batch == alone


def test_answer_batch_is_answer_for_each(janus64, pictures):
    images = [pictures(2, seed=1), pictures(1, seed=2), pictures(1, seed=3)]
    batch = janus64.answer_batch(QUESTIONS, images, max_new_tokens=8, temperature=1.0, seed=2**64 - 2)
    seeds = (2**64 - 2, 2**64 - 1, 0)
    assert batch == [
        janus64.answer(q, im, max_new_tokens=8, temperature=1.0, seed=seed)
        for q, im, seed in zip(QUESTIONS, images, seeds, strict=True)
    ]


@torch.no_grad()
def test_every_word_is_the_law_applied_to_the_uncached_model(janus64):
    sampling = Sampling(1.2)
    answer = new_ids(janus64, ["What is it?"], seed=9, sampling=sampling)[0]
    prompt = janus64.processor.question_prompt("What is it?", 0)
    language, keys = janus64.model.language_model, seed_keys(9, 1, "cpu")
    hidden = language.model(janus64.model.embed_text(torch.tensor([prompt + answer])))
    logits = language.lm_head(hidden)[0, len(prompt) - 1 :]
    assert answer == [int(draw_tokens(logits[i : i + 1], sampling, keys, i)) for i in range(16)]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_penalties_and_min_p_are_applied_to_each_word_as_in_the_uncached_model(janus64, temperature):
    """The formulas are written out here once more, on the probabilities of the model without a cache."""
    sampling = Sampling(temperature, min_p=0.03, repetition_penalty=1.4, presence_penalty=0.3)
    [answer] = new_ids(janus64, ["What is it?"], seed=9, sampling=sampling)
    prompt, language = janus64.processor.question_prompt("What is it?", 0), janus64.model.language_model
    hidden = language.model(janus64.model.embed_text(torch.tensor([prompt + answer])))
    keys = seed_keys(9, 1, "cpu")
    for i, word in enumerate(answer):
        logits = language.lm_head(hidden)[:, len(prompt) - 1 + i]
        for used in set(answer[:i]):
            value = logits[0, used]
            logits[0, used] = (value / 1.4 if value > 0 else value * 1.4) - 0.3
        shares = (logits / (temperature or 1e-9)).softmax(dim=-1)
        kept = logits.masked_fill(shares < 0.03 * shares.max(), -torch.inf)
        assert int(draw_tokens(kept, Sampling(temperature), keys, i)) == word
    assert len(set(answer)) > len(set(new_ids(janus64, ["What is it?"], sampling=Sampling(0.0))[0]))


def test_each_row_of_a_batch_has_its_own_penalties(janus64):
    sampling = Sampling(0.0, repetition_penalty=3.0)
    assert new_ids(janus64, QUESTIONS, sampling=sampling) == [
        new_ids(janus64, [question], sampling=sampling)[0] for question in QUESTIONS
    ]


def test_same_seed_same_answer_and_greedy_needs_no_seed(janus):
    one, again, other = (janus.answer("What?", temperature=1.0, seed=s, max_new_tokens=12) for s in (1, 1, 2))
    assert one == again != other
    assert janus.answer("What?", seed=1, max_new_tokens=12) == janus.answer("What?", seed=2, max_new_tokens=12)


@torch.no_grad()
def test_pictures_fill_their_places_in_order(janus, pictures):
    turns = [
        {"role": "user", "content": f"First {TAG} here."},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": f"Now {TAG} and {TAG}?"},
    ]
    pixels = janus.processor.pixels(pictures(3))
    features = janus.model.embed_images(pixels)
    prompts = [janus.processor.question_prompt(turns, 3), janus.processor.question_prompt("What?", 0)]
    processor = janus.processor
    special = {"image_id": processor.image, "pad": processor.pad}
    embeds, mask = embed_prompts(janus.model, prompts, **special, features=features, device=janus.device)
    places = torch.tensor(prompts[0]) == processor.image
    assert torch.equal(embeds[0, places], features.flatten(0, 1))
    assert torch.equal(embeds[0, ~places], janus.model.embed_text(torch.tensor(prompts[0]))[~places])
    assert mask.sum(1).tolist() == [len(p) for p in prompts]
    assert torch.equal(embeds[1, mask[1]], janus.model.embed_text(torch.tensor(prompts[1])))


def test_which_picture_stands_where_matters(janus64, pictures):
    """All of it reaches the answer: order of pictures, earlier turns, the pictures themselves."""
    a, b = pictures(1, seed=1), pictures(1, seed=2)

    def logits(turns, images):
        seen = []
        handle = janus64.model.language_model.lm_head.register_forward_hook(lambda _m, _i, out: seen.append(out))
        janus64.answer(turns, images, max_new_tokens=1)
        handle.remove()
        return seen[0]

    question = f"{TAG} or {TAG}?"
    seen = [logits(question, torch.cat(pair)) for pair in ((a, b), (b, a), (a, a))]
    earlier = {"role": "assistant", "content": "Yes."}, {"role": "assistant", "content": "No."}
    first, last = {"role": "user", "content": question}, {"role": "user", "content": "Sure?"}
    seen += [logits([first, answer, last], torch.cat((a, b))) for answer in earlier]
    for i, one in enumerate(seen):
        assert all(not torch.allclose(one, other, atol=1e-9) for other in seen[:i])


def test_pictures_of_different_sizes_may_come_as_a_list(janus):
    wide, tall = torch.rand(48, 96, 3), torch.rand(96, 64, 3)
    assert isinstance(janus.answer("Which?", [wide, tall], max_new_tokens=3), str)


@pytest.mark.parametrize(("height", "width"), [(1, 2000), (2000, 1), (1, 1), (3, 5), (700, 500)])
def test_pictures_of_any_size_and_shape_can_be_asked_about(janus, height, width):
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))
    assert isinstance(janus.answer("What?", image, max_new_tokens=2), str)


def test_progress_is_called_after_each_step_with_the_words_so_far(janus):
    calls = []
    answers = new_ids(
        janus,
        QUESTIONS[:2],
        steps=6,
        progress=lambda step, total, rows: calls.append((step, total, [*map(tuple, rows)])),
    )
    assert [call[:2] for call in calls] == [(i, 6) for i in range(1, 7)]
    for step, _, rows in calls:
        assert rows == [tuple(row[:step]) for row in answers]


class Stopped(Exception):
    pass


def test_progress_may_raise_to_stop_at_once(janus, calls):
    def stop(step: int, total: int, rows: list[list[int]]) -> None:
        if step == 3:
            raise Stopped

    expected = janus.answer("What?", max_new_tokens=8)
    calls.clear()
    with pytest.raises(Stopped):
        janus.answer("What?", max_new_tokens=8, progress=stop)
    assert len(calls) == 3
    assert janus.answer("What?", max_new_tokens=8) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_answer_a_padded_batch_with_finite_logits(copy, pictures, dtype):
    janus = janus_core.load(copy(), dtype=dtype)
    seen = []
    janus.model.language_model.lm_head.register_forward_hook(lambda _m, _i, out: seen.append(out))
    answers = janus.answer_batch(QUESTIONS[:2], [pictures(1), pictures(2)], max_new_tokens=5)
    assert len(answers) == 2 and len(seen) == 5
    assert all(out.dtype == dtype and bool(out.isfinite().all()) for out in seen)


def test_a_question_past_the_context_is_refused_with_the_count_of_tokens(janus, pictures):
    question = "cat " * 400
    length = len(janus.processor.question_prompt(question, 1))
    with pytest.raises(InputError, match=rf"takes {length} tokens and 512 more .* {length + 512} in all, .* 1024"):
        janus.answer(question, pictures())
    length = len(janus.processor.question_prompt("What?", 1))
    with pytest.raises(InputError, match="1025 in all"):
        janus.answer("What?", pictures(), max_new_tokens=1025 - length)


def test_an_answer_may_fill_the_context_to_the_last_token(janus, monkeypatch):
    monkeypatch.setattr(janus.processor, "eos", -1)
    length = len(janus.processor.question_prompt("What?", 0))
    steps = []
    janus.answer("What?", max_new_tokens=1024 - length, progress=lambda step, *_: steps.append(step))
    assert len(steps) == 1024 - length


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"max_new_tokens": 0}, "0 tokens"),
        ({"max_new_tokens": -1}, "-1 tokens"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ({"presence_penalty": float("nan")}, "presence_penalty is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_settings_out_of_range_are_refused(janus, setting, match):
    with pytest.raises(InputError, match=match):
        janus.answer("What?", **setting)


@pytest.mark.parametrize("count", [1, 3])
def test_questions_and_picture_sets_must_match(janus, pictures, count):
    with pytest.raises(InputError):
        janus.answer_batch(QUESTIONS[:2], [pictures()] * count)


def test_no_question_at_all_is_refused(janus):
    with pytest.raises(InputError):
        janus.answer_batch([])
