"""Pictures of any size brought to the model's own: cropped, padded or stretched."""

import pytest
import torch

from janus_core import InputError
from janus_core.pictures import FITS, fitted


def stripes(height: int, width: int, *, along: int) -> torch.Tensor:
    """A picture that is black, grey and black again in thirds along a dimension: 1 is its height, 2 its width."""
    picture = torch.zeros(1, height, width, 3)
    third = picture.shape[along] // 3
    picture.narrow(along, third, third).fill_(0.5)
    return picture


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize(("height", "width"), [(96, 96), (50, 300), (300, 50), (1, 1), (1, 500), (97, 96), (96, 64)])
@pytest.mark.parametrize("size", [(96, 96), (64, 96)])
def test_every_picture_gets_the_size(how, height, width, size):
    images = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(0))
    found = fitted(images, size, how)
    assert found.shape == (2, *size, 3) and found.dtype == torch.float32 and found.is_contiguous()
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("how", FITS)
def test_a_picture_that_has_the_size_keeps_every_pixel(how, pictures):
    assert torch.equal(fitted(pictures(3), (96, 96), how), pictures(3))


@pytest.mark.parametrize("along", [1, 2])
def test_crop_keeps_the_middle_and_its_proportions(along):
    shape = (96, 288) if along == 2 else (288, 96)
    assert torch.equal(fitted(stripes(*shape, along=along), (96, 96), "crop"), torch.full((1, 96, 96, 3), 0.5))


@pytest.mark.parametrize("along", [1, 2])
def test_pad_keeps_all_and_adds_white_at_both_ends(along):
    shape = (96, 48) if along == 2 else (48, 96)
    found = fitted(torch.full((1, *shape, 3), 0.25), (96, 96), "pad")
    assert torch.equal(found.narrow(along, 24, 48), torch.full((1, *shape, 3), 0.25))
    assert found.narrow(along, 0, 24).min() == 1 and found.narrow(along, 72, 24).min() == 1


@pytest.mark.parametrize("along", [1, 2])
def test_stretch_keeps_all_in_other_proportions(along):
    shape = (96, 288) if along == 2 else (288, 96)
    found = fitted(stripes(*shape, along=along), (96, 96), "stretch").narrow(3 - along, 0, 1).flatten()[::3]
    assert found[:28].max() == 0 and found[68:].max() == 0
    torch.testing.assert_close(found[36:60], torch.full((24,), 0.5))


def test_a_fine_pattern_becomes_its_mean_and_not_an_alias():
    board = (torch.arange(384)[:, None] + torch.arange(384)) % 2
    found = fitted(board.float()[None, :, :, None].expand(1, 384, 384, 3), (96, 96), "stretch")
    assert (found[:, 4:-4, 4:-4] - 0.5).abs().max() < 0.02


def test_values_beyond_black_and_white_are_clipped():
    found = fitted(torch.tensor([-3.0, 0.5, 7.0]).expand(1, 96, 96, 3), (96, 96), "crop")
    assert found.unique().tolist() == [0, 0.5, 1]


def test_another_way_is_refused(pictures):
    with pytest.raises(InputError, match="no way 'keep' to fit a picture: choose crop, pad, stretch"):
        fitted(pictures(), (96, 96), "keep")
