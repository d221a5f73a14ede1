"""The tiny model in every layout it can be stored in, and what the original implementation made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import janus_core

DATA = Path(__file__).parents[1] / "data"
LAYOUTS = ("deepseek", "transformers", "deepseek bin shards", "transformers bin shards")


def write_bin_shards(checkpoint: Path, target: Path) -> Path:
    """The checkpoint again, its weights as three pickled shards with an index."""
    shutil.copytree(checkpoint, target, ignore=shutil.ignore_patterns("*.safetensors"))
    state = load_file(checkpoint / "model.safetensors")
    names = [f"pytorch_model-{i:05}-of-00003.bin" for i in (1, 2, 3)]
    weight_map = {key: names[i % 3] for i, key in enumerate(sorted(state))}
    for name in names:
        torch.save({key: state[key] for key in state if weight_map[key] == name}, target / name)
    (target / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return target


@pytest.fixture(scope="session", params=LAYOUTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny checkpoint, once for each layout of the same weights."""
    folder = DATA / ("tiny_transformers" if "transformers" in request.param else "tiny_deepseek")
    if "shards" in request.param:
        folder = write_bin_shards(folder, tmp_path_factory.mktemp("shards") / folder.name)
    return folder


@pytest.fixture(scope="session")
def janus(checkpoint: Path) -> janus_core.Janus:
    return janus_core.load(checkpoint)


@pytest.fixture(scope="session")
def golden() -> dict:
    """Every recorded tensor as `file.name`, and the recorded texts under `text`."""
    files = ("vision_heads", "language_model", "vq", "generate", "understanding")
    recorded: dict = {f"{f}.{k}": t for f in files for k, t in load_file(DATA / f"{f}.safetensors").items()}
    recorded["text"] = json.loads((DATA / "golden.json").read_text(encoding="utf-8"))
    return recorded


@pytest.fixture(scope="session")
def picture():
    """Reads `images/NAME.png` as an IMAGE: float [1, H, W, 3] in 0..1."""

    def read(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(DATA / "images" / f"{name}.png"))).float()[None] / 255

    return read


@pytest.fixture(scope="session")
def close():
    """Asserts that two tensors have one shape and differ nowhere by more than 1e-4."""

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0, check_dtype=False)

    return check


@pytest.fixture
def record():
    """Hooks a module and returns the growing list of its outputs."""
    handles = []

    def hook(module: torch.nn.Module) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        handles.append(module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach())))
        return outputs

    yield hook
    for handle in handles:
        handle.remove()
