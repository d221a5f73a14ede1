"""ImageTokens, and what decode and encode take and refuse."""

from __future__ import annotations

import pytest
import torch

import janus_core
from janus_core import ImageTokens, InputError
from janus_core.tokens import fingerprint

TINY_CODES = 128


@pytest.fixture
def tokens(janus):
    """Two pictures of random codes, with anything changed that is asked for."""

    def make(**changes) -> ImageTokens:
        ids = torch.randint(TINY_CODES, (2, 36), generator=torch.Generator().manual_seed(3))
        return ImageTokens(**({"ids": ids, "grid": (6, 6), "codebook": janus.codebook} | changes))

    return make


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_fingerprint_is_one_in_every_dtype(copy, janus, dtype):
    assert janus_core.load(copy(), dtype=dtype).codebook == janus.codebook


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_fingerprint_survives_rounding_to_zero(dtype):
    codebook = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) * 1e-7
    assert fingerprint(codebook.to(dtype)) == fingerprint(codebook)


def test_the_fingerprint_tells_codebooks_apart():
    codebook = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    one_sign = codebook.clone()
    one_sign[5, 3] *= -1
    others = [one_sign, codebook.roll(1, 0), codebook[:32], codebook.reshape(32, 16)]
    assert len({fingerprint(c) for c in (codebook, *others)}) == 5


def test_decoded_pictures_are_float_images_in_range(janus, tokens):
    images = janus.decode(tokens())
    assert images.shape == (2, 96, 96, 3) and images.dtype == torch.float32 and images.is_contiguous()
    assert images.min() >= 0 and images.max() <= 1
    assert images.min() == 0 and images.max() == 1  # these codes overshoot, so clipping is at work


def test_a_picture_decodes_alike_alone_and_in_a_batch(janus, tokens):
    both = tokens()
    alone = torch.cat([janus.decode(tokens(ids=row[None])) for row in both.ids])
    torch.testing.assert_close(janus.decode(both), alone, atol=1e-6, rtol=0)


def test_rows_of_several_pictures_are_decoded_together(janus, tokens):
    whole = tokens()
    height, width = whole.grid
    rows = ImageTokens(whole.ids[:, :width].repeat(height, 1), (1, width), whole.codebook)  # of twice as many pictures
    done = []
    pictures = janus.decode(rows, progress=lambda *counts: done.append(counts))
    assert done == [(height, len(rows)), (2 * height, len(rows))]
    alone = torch.cat([janus.decode(ImageTokens(ids[None], rows.grid, rows.codebook)) for ids in rows.ids])
    torch.testing.assert_close(pictures, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_decode_and_encode_in_every_dtype(copy, janus, tokens, pictures, dtype):
    other = janus_core.load(copy(), dtype=dtype)
    images = other.decode(tokens())
    assert images.dtype == torch.float32
    assert (images - janus.decode(tokens())).abs().mean() < (0.03 if dtype == torch.bfloat16 else 1e-4)
    agree = (other.encode(pictures()).ids == janus.encode(pictures()).ids).float().mean()
    assert agree > (0.7 if dtype == torch.bfloat16 else 0.99)


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 160), (96, 48), (128, 112)])
def test_encode_takes_any_sides_of_whole_codes(janus, width, height):
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))
    tokens = janus.encode(image)
    assert tokens.grid == (height // 16, width // 16) and tokens.ids.shape == (1, height * width // 256)
    assert tokens.ids.dtype == torch.long
    assert janus.decode(tokens).shape == image.shape


def test_encoding_says_after_each_picture_how_many_are_done(janus, pictures):
    done = []
    janus.encode(pictures(3), progress=lambda *counts: done.append(counts))
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_pictures_of_the_models_own_size_have_its_grid(janus):
    height, width = janus.size
    assert janus.encode(torch.rand(1, height, width, 3)).grid == janus.generate("a red circle").grid


def test_the_batch_size_is_the_length(tokens):
    assert len(tokens()) == 2


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"codebook": "another"}, "another model's codebook"),
        ({"ids": torch.zeros(0, 36, dtype=torch.long)}, r"shape \[0, 36\]"),
        ({"ids": torch.zeros(36, dtype=torch.long)}, r"shape \[36\]"),
        ({"ids": torch.zeros(1, 35, dtype=torch.long)}, r"shape \[1, 35\].*6 x 6"),
        ({"ids": torch.full((1, 36), TINY_CODES)}, "outside the codebook of 128"),
        ({"ids": torch.full((1, 36), -1)}, "outside the codebook"),
        ({"ids": torch.zeros(1, 0, dtype=torch.long), "grid": (0, 0)}, "grid|shape"),
        ({"grid": (-6, -6)}, "grid|shape|-6"),
        ({"ids": torch.zeros(1, 36)}, "tokens"),
    ],
    ids=["codebook", "none", "flat", "short", "above", "below", "empty grid", "negative grid", "float"],
)
def test_damaged_tokens_are_refused(janus, tokens, changes, match):
    with pytest.raises(InputError, match=match):
        janus.decode(tokens(**changes))


@pytest.mark.parametrize(("width", "height"), [(95, 96), (96, 100), (8, 8)])
def test_encode_refuses_sides_that_are_not_whole_codes(janus, width, height):
    for refusing in (janus.encode, janus.encoding_need):
        with pytest.raises(InputError, match=f"{width} x {height} pixels.*multiples of 16"):
            refusing(torch.rand(1, height, width, 3))


@pytest.mark.parametrize("shape", [(96, 96, 3), (1, 96, 96, 1), (1, 96, 96, 4), (0, 96, 96, 3), (1, 0, 96, 3)])
def test_encode_refuses_other_shapes(janus, shape):
    with pytest.raises(InputError, match="shape"):
        janus.encode(torch.zeros(shape))


def test_encode_refuses_nan_and_bytes(janus, pictures):
    with pytest.raises(InputError, match="NaN"):
        janus.encode(pictures() * float("nan"))
    with pytest.raises(InputError, match="0 to 1|0..1"):
        janus.encode((pictures() * 255).to(torch.uint8))
