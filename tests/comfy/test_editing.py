"""Janus Edit in a real server: the pictures of the core, batches, and the sentence for weights that cannot edit."""

import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, node_of
from PIL import Image

import janus_core

TINY = PACK / "tests" / "data" / "tiny_deepseek"
WORDS = "Make it night."


@pytest.fixture
def graph(drawing: Graph) -> Graph:
    """Edits two pictures with the tiny model, spoken to as Janus-4o."""
    loader = node_of(drawing, "JanusLoader")
    drawing[loader]["inputs"]["dialect"] = "Janus-4o"
    made = {loader: drawing[loader]}
    for i in range(2):
        made[f"photo {i}"] = {"class_type": "LoadImage", "inputs": {"image": f"batch_{i}.png"}}
    made["both"] = {"class_type": "ImageBatch", "inputs": {"image1": ["photo 0", 0], "image2": ["photo 1", 0]}}
    inputs = {"janus": [loader, 0], "image": ["both", 0], "instruction": WORDS, "seed": 5, "cfg": 5, "image_cfg": 4}
    made["edit"] = {"class_type": "JanusEdit", "inputs": {**inputs, "temperature": 1.0}}
    made["save"] = {"class_type": "SaveImage", "inputs": {"images": ["edit", 0], "filename_prefix": "edited"}}
    return made


def test_it_draws_what_the_core_draws(server: ComfyServer, graph: Graph) -> None:
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    files = [Image.open(server.base / "input" / f"batch_{i}.png").convert("RGB") for i in range(2)]
    images = torch.stack([torch.from_numpy(np.asarray(file).astype(np.float32) / 255) for file in files])
    janus = janus_core.load(TINY, dialect="Janus-4o")
    tokens = janus_core.edit(janus, images, WORDS, seed=5, image_weight=4, cfg_weight=5.0, temperature=1.0)
    pictures = server.pictures(run, "save")
    assert len(pictures) == 2
    for picture, expected in zip(pictures, janus.decode(tokens), strict=True):
        assert np.abs(np.asarray(picture) / 255 - expected.numpy()).max() < 0.01
    assert [shown["seed"] for shown in run.outputs["edit"]["janus_pictures"]] == ["5", "6"]


def test_other_weights_are_refused_by_what_can_unless_forced(server: ComfyServer, graph: Graph) -> None:
    graph[node_of(graph, "JanusLoader")]["inputs"]["dialect"] = "auto"
    assert "those of Janus-4o-7B were: choose it in Load Janus" in server.run(graph).error
    graph["edit"]["inputs"]["force"] = True
    assert server.run(graph).end == "execution_success"


def test_jacobi_and_finer_settings_come_from_janus_sampling(server: ComfyServer, graph: Graph) -> None:
    settings = {"min_p": 0, "cfg_end": 5, "cfg_power": 1, "entropy_temperature": 0, "top_k": 0, "top_p": 1, "window": 4}
    plain = [picture.tobytes() for picture in server.pictures(server.run(graph), "save")]
    graph["how"] = {"class_type": "JanusSampling", "inputs": {**settings, "sampler": "jacobi"}}
    graph["edit"]["inputs"]["sampling"] = ["how", 0]
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    assert [picture.tobytes() for picture in server.pictures(run, "save")] == plain
