"""Token ids, chat templates and preprocessed pictures, equal to the original's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from janus_core.pictures import Normalisation, letterbox, preprocess, to_pil
from janus_core.processing import SYSTEM_PROMPT


def test_token_ids_with_bos(janus, golden):
    recorded = golden["text"]["tokenize"]
    assert len(recorded) == 8
    assert {text: janus.processor.encode(text) for text in recorded} == recorded


def test_special_ids(janus, golden):
    ids, processor = golden["text"]["special_ids"], janus.processor
    assert (processor.bos, processor.eos, processor.pad) == (284, 285, 286)
    assert processor.begin_of_image == ids["<begin_of_image>"]
    assert processor.end_of_image == ids["<end_of_image>"]
    assert processor.image == ids["<image_placeholder>"]
    assert {token: processor.tokenizer.token_to_id(token) for token in ids} == ids


def test_rendered_conversation(janus, golden):
    turns = [
        {"role": "user", "content": " hi\n"},
        {"role": "assistant", "content": "yes "},
        {"role": "user", "content": "bye"},
    ]
    assert janus.processor.render(turns, "SYS") == golden["text"]["template"]
    assert golden["text"]["system_prompt"] == SYSTEM_PROMPT


def test_rendered_questions(janus, golden):
    recorded = golden["text"]["understanding"]["batch"]["sft_format"]
    two = "<image_placeholder> is Figure 1.\n<image_placeholder> is Figure 2.\nWhich image is brighter?"
    one = "<image_placeholder>\nWhat is in the image?"
    turns = [[{"role": "user", "content": content}] for content in (two, one)]
    assert [janus.processor.render(t, SYSTEM_PROMPT) for t in turns] == recorded


@pytest.mark.parametrize("name", ["wide", "tall", "thin", "square"])
def test_preprocessed_pictures_are_equal_to_the_pixel(janus, picture, name):
    ours = janus.processor.pixels(picture(name))
    recorded = picture(f"{name}.s96").permute(0, 3, 1, 2)
    assert torch.equal(((ours + 1) / 2 * 255).round(), (recorded * 255).round())
    torch.testing.assert_close(ours, (recorded - 0.5) / 0.5, atol=1e-6, rtol=0)


def test_resizing_to_the_published_size(picture):
    ours = letterbox(to_pil(picture("wide")[0]), 384, (127, 127, 127))
    assert np.array_equal(np.asarray(ours), np.asarray(to_pil(picture("wide.s384")[0])))


def test_another_mean_gives_another_background(picture):
    clip = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    mean, std = (torch.tensor(v)[:, None, None] for v in (clip.mean, clip.std))
    ours = preprocess([to_pil(picture("wide")[0])], 96, clip)[0]
    recorded = picture("wide.s96.clip")[0].permute(2, 0, 1)
    assert (recorded[:, 0, 0] * 255).round().tolist() == [122, 116, 104]
    torch.testing.assert_close(ours, (recorded - mean) / std, atol=1e-5, rtol=0)


def test_an_image_that_was_8_bits_comes_back_unchanged_even_a_little_off():
    """Floats go to the nearest of 256 levels: noise of less than half a level, from resaving or scaling, is undone."""
    levels = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    for off in (-0.4, 0.0, 0.4):
        image = (torch.from_numpy(levels).float() + off) / 255
        assert np.array_equal(np.asarray(to_pil(image)), levels)
