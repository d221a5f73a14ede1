"""A Janus of the mini's words and pictures, but tiny and untrained: what the trainer's tests train."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from janus_core.mini.codes import WorldCodes
from janus_core.mini.model import new_model, write_layout
from janus_core.mini.samples import world_sources
from janus_core.model.janus import JanusModel
from janus_core.processing import Processor
from janus_core.training.samples import Source as SampleSource
from janus_core.training.vq import to_pixels
from janus_core.weights.checkpoint import CheckpointFiles
from janus_core.weights.saving import save_weights

HIDDEN = 32


def shrink(config: dict) -> dict:
    """The mini's config with the smallest layers that still are all of a Janus."""
    config["vision_config"]["params"] |= {"width": 32, "layers": 1, "heads": 2}
    config["gen_vision_config"]["params"] |= {"ch_mult": [1, 1, 1, 1, 1], "z_channels": 32, "image_token_size": 64}
    config["gen_vision_config"]["params"] |= {"n_embed": 8}
    config["aligner_config"]["params"] |= {"input_dim": 32, "n_embed": HIDDEN}
    config["gen_aligner_config"]["params"] |= {"input_dim": 8, "n_embed": HIDDEN}
    config["gen_head_config"]["params"] = {"image_token_embed": HIDDEN, "image_token_size": 64, "n_embed": HIDDEN}
    language = {"hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 2}
    config["language_config"] |= language | {"num_attention_heads": 2, "num_key_value_heads": 2}
    return config


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole, loadable Janus folder."""
    folder = tmp_path_factory.mktemp("tiny")
    write_layout(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(shrink(json.loads(path.read_text()))))
    save_weights(new_model(CheckpointFiles(folder, ()).config(), seed=0), folder, torch.float32)
    return folder


@pytest.fixture(scope="session")
def processor(tiny_folder: Path) -> Processor:
    source = CheckpointFiles(tiny_folder, ())
    return Processor(source, source.config())


@pytest.fixture
def model(tiny_folder: Path) -> JanusModel:
    return new_model(CheckpointFiles(tiny_folder, ()).config(), seed=0)


@pytest.fixture(scope="session")
def sources(tiny_folder: Path, processor: Processor) -> dict[str, SampleSource]:
    """The world's samples, their codes from an untrained VQ tokenizer."""
    vq = new_model(CheckpointFiles(tiny_folder, ()).config(), seed=0).gen_vision_model

    @torch.no_grad()
    def encode(pictures: np.ndarray) -> torch.Tensor:
        return vq.encode(to_pixels(pictures))[1]

    return world_sources(processor, WorldCodes(encode))
