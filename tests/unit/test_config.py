"""Configs of both dialects, sparse ones, presets, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from janus_core import CheckpointError
from janus_core.config import JanusConfig, published_config
from janus_core.config_limits import LIMITS

DATA = Path(__file__).parents[1] / "data"


def raw(dialect: str = "deepseek") -> dict:
    return json.loads((DATA / f"tiny_{dialect}" / "config.json").read_text())


def without(config: dict, *path: str) -> dict:
    config = copy.deepcopy(config)
    part = config
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return config


def changed(config: dict, value: object, *path: str) -> dict:
    config = copy.deepcopy(config)
    part = config
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return config


def test_both_dialects_say_the_same():
    ours = JanusConfig.from_dict(raw("deepseek"))
    assert ours == JanusConfig.from_dict(raw("transformers"))
    assert (ours.vision.image_size, ours.vision.tokens, ours.vision.width, ours.vision.layers) == (96, 36, 48, 3)
    assert (ours.vq.ch, ours.vq.ch_mult, ours.vq.codebook_size, ours.vq.codebook_dim) == (32, (1, 1, 1, 2, 2), 128, 8)
    assert (ours.llama.hidden_size, ours.llama.head_dim, ours.llama.vocab_size) == (64, 16, 320)
    assert ours.llama.max_position_embeddings == 1024
    assert ours.grid == (6, 6) and ours.vq.downsampling == 16


def test_a_sparse_config_gets_llamas_defaults_and_named_presets():
    seven = JanusConfig.preset("Janus-Pro-7B")
    assert "hidden_size" not in published_config("Janus-Pro-7B")["language_config"]
    assert (seven.llama.hidden_size, seven.llama.intermediate_size, seven.llama.num_attention_heads) == (
        4096,
        11008,
        32,
    )
    assert (seven.llama.rms_norm_eps, seven.llama.rope_theta, seven.llama.num_hidden_layers) == (1e-6, 10000.0, 30)
    assert (seven.vision.width, seven.vision.layers, seven.vision.heads, seven.vision.tokens) == (1024, 24, 16, 576)
    assert (seven.vq.ch, seven.vq.z_channels, seven.vq.codebook_size, seven.grid) == (128, 256, 16384, (24, 24))


def test_janus_1_3b_and_pro_1b_share_one_shape():
    one = JanusConfig.preset("Janus-Pro-1B")
    assert one == JanusConfig.preset("Janus-1.3B")
    assert (one.llama.hidden_size, one.llama.intermediate_size, one.llama.num_hidden_layers) == (2048, 5632, 24)


def test_what_the_file_says_beats_the_preset():
    config = changed(published_config("Janus-Pro-1B"), 2, "vision_config", "params", "layers")
    assert JanusConfig.from_dict(config).vision.layers == 2


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
def test_rope_theta_is_read_from_its_newer_places(spelling):
    config = without(raw("transformers"), "text_config", "rope_theta")
    config = changed(config, {"rope_type": "default", "rope_theta": 5e5}, "text_config", spelling)
    assert JanusConfig.from_dict(config).llama.rope_theta == 5e5


@pytest.mark.parametrize("kind", ["llama", "llava", "", None, ["multi_modality"]])
def test_another_models_config_is_refused_by_its_type(kind):
    with pytest.raises(CheckpointError, match="not Janus"):
        JanusConfig.from_dict(changed(raw(), kind, "model_type"))


@pytest.mark.parametrize(
    "path",
    [
        ("vision_config",),
        ("vision_config", "params", "width"),
        ("gen_vision_config", "params", "ch_mult"),
        ("gen_vision_config", "params", "n_embed"),
        ("language_config", "num_hidden_layers"),
        ("aligner_config", "params", "depth"),
        ("gen_head_config",),
    ],
)
def test_a_missing_entry_is_named(path):
    with pytest.raises(CheckpointError, match=f"config.json lacks the entry '{path[-1]}'"):
        JanusConfig.from_dict(without(raw(), *path))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("big", ("language_config", "hidden_size")),
        (None, ("language_config", "hidden_size")),
        (float("inf"), ("language_config", "hidden_size")),
        (-1, ("language_config", "vocab_size")),
        (0, ("language_config", "num_attention_heads")),
        (64, ("language_config", "num_attention_heads")),  # one number a head, where RoPE turns pairs
        (2, ("language_config", "num_key_value_heads")),
        ({"type": "linear", "factor": 2.0}, ("language_config", "rope_scaling")),
        (None, ("vision_config",)),
        ([], ("vision_config", "params")),
        (5, ("vision_config", "params", "heads")),
        (90, ("vision_config", "params", "image_size")),
        (33, ("gen_vision_config", "params", "ch")),  # GroupNorm has 32 groups
        ([], ("gen_vision_config", "params", "ch_mult")),
        ("identity", ("aligner_config", "params", "projector_type")),
        (100_000, ("language_config", "num_hidden_layers")),  # built layer by layer, for hours
        (100_000, ("vision_config", "params", "layers")),
        (100_000, ("aligner_config", "params", "depth")),
        (100_000, ("gen_aligner_config", "params", "depth")),
        (100_000, ("gen_vision_config", "params", "num_res_blocks")),
        ([1] * 100_000, ("gen_vision_config", "params", "ch_mult")),
        ([1, 10**6], ("gen_vision_config", "params", "ch_mult")),
        ("11", ("gen_vision_config", "params", "ch_mult")),
        (2**40, ("gen_head_config", "params", "image_token_embed")),
        (0, ("gen_head_config", "params", "image_token_embed")),
        (2.5, ("vision_config", "params", "heads")),
        ("48", ("vision_config", "params", "width")),
        (True, ("vision_config", "params", "layers")),
        (float("nan"), ("vision_config", "params", "mlp_ratio")),
        (float("inf"), ("language_config", "rope_theta")),
        (-1e-6, ("language_config", "rms_norm_eps")),
        (0.0, ("language_config", "rope_theta")),
        ("x" * 10**6, ("language_config", "hidden_size")),
        ("x\n" * 10**6, ("model_type",)),
    ],
)
def test_an_impossible_value_is_refused(value, path):
    config = changed(raw(), value, *path)
    if path[-1] == "num_attention_heads":
        config = changed(config, value, "language_config", "num_key_value_heads")
    with pytest.raises(CheckpointError, match="config.json") as caught:
        JanusConfig.from_dict(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_picture_of_millions_of_tokens_is_refused():
    config = changed(raw(), 4096, "vision_config", "params", "image_size")
    with pytest.raises(CheckpointError, match="16777216 tokens"):
        JanusConfig.from_dict(changed(config, 1, "vision_config", "params", "patch_size"))


def test_every_size_has_a_limit():
    """A size that is added to a config is checked, too."""
    config = JanusConfig.from_dict(raw())
    sizes = vars(config) | vars(config.vision) | vars(config.vq) | vars(config.llama)
    assert sizes.keys() - LIMITS.keys() == {"vision", "vq", "llama", "ch_mult"}


def test_an_unknown_preset_is_refused_with_the_known_names():
    with pytest.raises(CheckpointError, match="Janus-1.3B, Janus-Pro-1B or Janus-Pro-7B"):
        JanusConfig.preset("Janus-9B")
