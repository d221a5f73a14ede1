"""One real ComfyUI for all these tests, with pictures in its input folder and checkpoints in its model folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, node_of, shipped
from PIL import Image
from safetensors.torch import save_file

TINY = PACK / "tests" / "data" / "tiny_deepseek"


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """A sky, a hill and grain, in colours of their own for each seed."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    hill = y > 0.35 + 0.1 * np.sin(9 * x + seed)
    colours = noise.uniform(40, 215, (2, 3))
    picture = np.where(hill[..., None], colours[0] * (1.2 - y[..., None]), colours[1] * (0.8 + 0.4 * y[..., None]))
    return Image.fromarray((picture + noise.normal(0, 6, picture.shape)).clip(0, 255).astype(np.uint8))


def put_inputs(folder: Path) -> None:
    """The pictures that the tests and the shipped workflows load."""
    photograph(320, 240, 0).save(folder / "example.png")
    photograph(333, 217, 1).save(folder / "wide.jpg", quality=90)
    photograph(61, 250, 2).save(folder / "tall.png")
    for i in range(3):
        photograph(120, 90, 10 + i).save(folder / f"batch_{i}.png")
    see_through = photograph(120, 90, 4)
    see_through.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 120).astype(np.uint8), (90, 1))))
    see_through.save(folder / "see_through.png")


def put_upscaler(folder: Path) -> None:
    """An untrained ESRGAN that doubles a picture, in the layout real ones have."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=1, scale=2)
    folder.mkdir(parents=True)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "doubler.safetensors")


# Another pack's node, of a kind that many have: its output fits every input, lists of names included.
ANYTHING = """
class Fits(str):
    def __ne__(self, other):
        return False

class Anything:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("STRING", {})}})
    RETURN_TYPES = (Fits("*"),)
    FUNCTION = "run"

    def run(self, value):
        return (value,)

NODE_CLASS_MAPPINGS = {"Anything": Anything}
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("comfy")
    elsewhere = base / "elsewhere"
    (base / "extra.yaml").write_text(json.dumps({"tests": {"base_path": str(elsewhere), "janus": "checkpoints"}}))
    running = ComfyServer(base, "--extra-model-paths-config", str(base / "extra.yaml"))
    (base / "custom_nodes" / "anything.py").write_text(ANYTHING)
    put_inputs(base / "input")
    put_upscaler(base / "models" / "upscale_models")
    shutil.copytree(TINY, base / "models" / "janus" / "tiny")
    shutil.copytree(TINY, base / "models" / "Janus-Pro" / "Janus-Pro-tiny")
    shutil.copytree(TINY, elsewhere / "checkpoints" / "family" / "tiny elsewhere")
    with running:
        yield running


@pytest.fixture
def drawing() -> Graph:
    """text_to_image.json with the tiny model."""
    return with_checkpoint(shipped("text_to_image"), "tiny")


@pytest.fixture
def describing() -> Graph:
    """describe_image.json with the tiny model, which rambles, kept short."""
    graph = with_checkpoint(shipped("describe_image"), "tiny")
    graph[node_of(graph, "JanusDescribeImage")]["inputs"]["max_tokens"] = 12
    return graph


def with_checkpoint(graph: Graph, name: str) -> Graph:
    graph[node_of(graph, "JanusLoader")]["inputs"]["checkpoint"] = name
    return graph
