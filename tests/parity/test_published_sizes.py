"""Janus-Pro-1B and 7B on the meta device: the published keys and shapes are consumed to the last, in both dialects."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path

import pytest
import torch
from transformers import JanusConfig as TransformersConfig

from janus_core import CheckpointError
from janus_core.config import JanusConfig, published_config
from janus_core.weights.checkpoint import CheckpointFiles
from janus_core.weights.loading import load_model
from janus_core.weights.names import split_fused

DATA = Path(__file__).parents[1] / "data"
SIZES = {"1b": (882, 2_089_297_547), "7b": (936, 7_420_434_059)}


def published(size: str) -> list[tuple[str, list[int], str]]:
    """(DeepSeek key, shape, transformers key) of a published checkpoint."""
    rows = gzip.decompress((DATA / f"janus_pro_{size}_keys.tsv.gz").read_bytes()).decode().splitlines()[1:]
    return [(key, json.loads(shape), other) for key, shape, other in (row.split("\t") for row in rows)]


def table(size: str, dialect: str) -> dict[str, list[int]]:
    """Key -> shape of the published checkpoint in a dialect."""
    if dialect == "deepseek":
        return {key: shape for key, shape, _ in published(size)}
    shapes = {}
    for key, shape, other in published(size):
        if "{q,k,v}" in other:
            shapes |= {other.replace("{q,k,v}", part): [shape[0] // 3, *shape[1:]] for part in "qkv"}
        elif other != "(dropped)":
            shapes[other] = shape[1:] if key.endswith("pos_embed") else shape
    return shapes


def transformers_config(size: str) -> dict:
    """The config as transformers itself would write it."""
    llama = published_config(f"Janus-Pro-{size.upper()}")["language_config"]
    width = {"1b": 2048, "7b": 4096}[size]
    config = TransformersConfig(
        text_config=llama,
        vision_config={"projection_dim": width},
        vq_config={"projection_dim": width, "image_token_embed_dim": width},
    )
    return json.loads(config.to_json_string())


def checkpoint(folder: Path, size: str, dialect: str, shapes: dict[str, list[int]]) -> CheckpointFiles:
    """A checkpoint of zeros that take no room: a file with a header and one long hole."""
    config = published_config(f"Janus-Pro-{size.upper()}") if dialect == "deepseek" else transformers_config(size)
    (folder / "config.json").write_text(json.dumps(config))
    entries, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        entries[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    weights = folder / "model.safetensors"
    with weights.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return CheckpointFiles(folder, (weights,))


@pytest.mark.parametrize("size", SIZES)
def test_the_lists_are_the_published_ones(size):
    shapes = table(size, "deepseek")
    assert (len(shapes), sum(torch.Size(shape).numel() for shape in shapes.values())) == SIZES[size]


@pytest.mark.parametrize("dialect", ["deepseek", "transformers"])
@pytest.mark.parametrize("size", SIZES)
def test_every_published_tensor_is_consumed(size, dialect, tmp_path):
    shapes = table(size, dialect)
    model = load_model(checkpoint(tmp_path, size, dialect, shapes), device="meta", dtype=torch.bfloat16)
    ours = {key: list(tensor.shape) for key, tensor in split_fused(model.state_dict()).items()}
    unused = re.compile(r"attn_pool|codebook_used")
    assert ours == {key: shape for key, shape in table(size, "deepseek").items() if not unused.search(key)}
    assert len(shapes) - len(ours) == (14 if dialect == "deepseek" else 2 * 2 * 24)  # unused; split in three


@pytest.mark.parametrize("dialect", ["deepseek", "transformers"])
def test_each_published_tensor_is_needed(dialect, tmp_path):
    """Take a tensor away and loading fails, naming it; rename one and loading fails, naming it."""
    shapes = table("1b", dialect)
    for key in list(shapes)[::130]:
        if "attn_pool" in key:
            continue
        fewer = {k: s for k, s in shapes.items() if k != key}
        with pytest.raises(CheckpointError, match=re.escape(key)):
            load_model(checkpoint(tmp_path, "1b", dialect, fewer), device="meta")
    with pytest.raises(CheckpointError, match="model.layers.24.extra"):
        more = shapes | {"model.layers.24.extra": [1]}
        load_model(checkpoint(tmp_path, "1b", dialect, more), device="meta")


@pytest.mark.parametrize("size", SIZES)
def test_both_dialects_describe_one_config(size):
    assert JanusConfig.from_dict(transformers_config(size)) == JanusConfig.preset(f"Janus-Pro-{size.upper()}")


def test_a_7b_config_does_not_take_a_1b_checkpoint(tmp_path):
    source = checkpoint(tmp_path, "1b", "deepseek", table("1b", "deepseek"))
    (tmp_path / "config.json").write_text(json.dumps(published_config("Janus-Pro-7B")))
    with pytest.raises(CheckpointError, match="layers.24"):
        load_model(source, device="meta")
