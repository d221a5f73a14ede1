"""The VQ tokenizer against the original: codes equal, tensors within 1e-4."""

from __future__ import annotations

import torch

import janus_core


@torch.no_grad()
def test_encoding_stage_by_stage(janus, golden, close, picture):
    vq = janus.model.gen_vision_model
    pixels = torch.cat([picture("wide.s96"), picture("tall.s96")]).permute(0, 3, 1, 2) * 2 - 1
    encoded = vq.encoder(pixels)
    close(encoded, golden["vq.encode.encoder_out"])
    close(vq.quant_conv(encoded), golden["vq.encode.quant_conv_out"])
    codes, ids = vq.encode(pixels)
    close(codes, golden["vq.encode.quant"])
    assert ids.flatten().tolist() == golden["vq.encode.indices"].tolist()


def test_encoded_pictures_decode_to_the_recorded_reconstruction(janus, golden, close, picture):
    tokens = janus.encode(torch.cat([picture("wide.s96"), picture("tall.s96")]))
    assert tokens.ids.flatten().tolist() == golden["vq.encode.indices"].tolist()
    assert tokens.grid == (6, 6)
    close(janus.model.gen_vision_model.decode(tokens.ids[1:], tokens.grid), golden["vq.decode_of_encode"])


@torch.no_grad()
def test_decoding(janus, golden, close):
    vq = janus.model.gen_vision_model
    ids = golden["vq.decode.ids"]
    close(vq.quantize.lookup(ids).unflatten(1, (6, 6)).permute(0, 3, 1, 2), golden["vq.decode.codes"])
    close(vq.decode(ids[:1], (6, 6)), golden["vq.decode.pixels"])


@torch.no_grad()
def test_decoding_a_grid_that_is_not_square(janus, golden, close):
    pixels = janus.model.gen_vision_model.decode(golden["vq.decode.ids"][:1], (4, 9))
    close(pixels, golden["vq.decode.nonsquare_4x9"])


def test_images_cut_to_8_bits_are_the_originals_file(janus, golden):
    tokens = janus_core.ImageTokens(golden["vq.decode.ids"], (6, 6), janus.codebook)
    images = janus.decode(tokens)
    assert images.shape == (2, 96, 96, 3) and images.min() >= 0 and images.max() <= 1
    # The original cuts where rounding noise can fall on either side: one level, in a few pixels in 10,000 at most.
    off = ((images * 255).to(torch.uint8).int() - golden["vq.decode.u8"].int()).abs()
    assert off.max() <= 1 and (off > 0).float().mean() < 1e-3
