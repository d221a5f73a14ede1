"""The colours of codes at a glance: near what the decoder paints."""

import torch

import janus_core
from janus_core.code_colours import code_colours


def test_a_code_has_about_the_colour_that_its_patch_is_decoded_to() -> None:
    janus = janus_core.load()
    colours = code_colours(janus)
    assert colours.shape == (janus.model.config.vq.codebook_size, 3)
    assert 0 <= colours.min() < colours.max() <= 1
    tokens = janus.generate("a red circle on a black background and a blue square", 4, seed=1, cfg_weight=1.5)
    height, width = tokens.grid
    decoded = janus.decode(tokens)
    painted = decoded.unflatten(1, (height, -1)).unflatten(3, (width, -1)).mean(dim=(2, 4)).flatten(1, 2)
    error = (colours[tokens.ids] - painted).abs().mean()
    shuffled = (colours.roll(1, 0)[tokens.ids] - painted).abs().mean()
    assert error < 0.6 * shuffled
    assert error < 0.15


def test_the_colours_are_the_same_each_time() -> None:
    janus = janus_core.load()
    assert torch.equal(code_colours(janus), code_colours(janus))
