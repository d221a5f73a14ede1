"""Writes sharded checkpoints, and checks how a damaged one is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import janus_core
from janus_core import CheckpointError


def refuses(folder: Path, match: str) -> str:
    """Check that loading raises CheckpointError with one sentence that matches. Returns the sentence."""
    with pytest.raises(CheckpointError, match=match) as caught:
        janus_core.load(folder)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def shard(folder: Path, state: dict[str, torch.Tensor], suffix: str = "safetensors") -> list[Path]:
    """Write the weights as two shards with an index."""
    index = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}[suffix]
    files = [folder / f"model-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    weight_map = {key: files[i % 2].name for i, key in enumerate(sorted(state))}
    for path in files:
        part = {key: tensor for key, tensor in state.items() if weight_map[key] == path.name}
        save_file(part, path) if suffix == "safetensors" else torch.save(part, path)
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return files
