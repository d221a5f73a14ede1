"""Janus Sampling on Janus Text-to-Image: its settings reach the core, and count instead of the node's own."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
from comfy_server import PACK, ComfyServer, Graph, node_of

import janus_core

TINY = PACK / "tests" / "data" / "tiny_deepseek"
PLAIN = {
    "min_p": -1.0, "cfg_end": -1.0, "cfg_power": 1.0, "entropy_temperature": 0.0,
    "top_k": 0, "top_p": 1.0, "sampler": "sequential", "window": 8,
}  # fmt: skip


def drawn(server: ComfyServer, graph: Graph) -> list[np.ndarray]:
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    return [np.asarray(picture) for picture in server.pictures(run, node_of(graph, "SaveImage"))]


def with_sampling(graph: Graph, **settings: Any) -> Graph:
    """The graph again, with a Janus Sampling for its Janus Text-to-Image."""
    number = node_of(graph, "JanusTextToImage")
    inputs = graph[number]["inputs"] | {"sampling": ["sampling", 0]}
    return graph | {
        number: graph[number] | {"inputs": inputs},
        "sampling": {"class_type": "JanusSampling", "inputs": PLAIN | settings},
    }


@pytest.fixture
def picky(server: ComfyServer, drawing: Graph) -> Graph:
    """The drawing with a checkpoint that has a high min-p of its own."""
    folder = server.base / "models" / "janus" / "picky"
    if not folder.exists():
        shutil.copytree(TINY, folder)
        (folder / "generation_config.json").write_text(json.dumps({"janus": {"min_p": 0.9}}))
    drawing[node_of(drawing, "JanusLoader")]["inputs"]["checkpoint"] = folder.name
    return drawing


def test_every_setting_reaches_the_core(server: ComfyServer, drawing: Graph) -> None:
    settings = {"min_p": 0.05, "cfg_end": 1.0, "cfg_power": 2.0, "entropy_temperature": 0.5, "top_k": 60, "top_p": 0.95}
    settings |= {"sampler": "jacobi", "window": 4}
    draw = drawing[node_of(drawing, "JanusTextToImage")]["inputs"]
    draw |= {"seed": 11, "cfg": 3.0, "batch_size": 2}
    janus = janus_core.load(TINY)
    tokens = janus.generate(draw["prompt"], 2, seed=11, cfg_weight=3.0, temperature=draw["temperature"], **settings)
    for mine, theirs in zip(
        drawn(server, with_sampling(drawing, **settings)), janus.decode(tokens).numpy(), strict=True
    ):
        assert np.abs(mine - theirs * 255).max() <= 1  # ComfyUI truncates to 8 bits


def test_the_nodes_own_choices_are_overruled(server: ComfyServer, drawing: Graph) -> None:
    draw = drawing[node_of(drawing, "JanusTextToImage")]["inputs"]
    (free,) = drawn(server, drawing)
    draw |= {"top_k": 1}
    (greedy,) = drawn(server, drawing)
    (overruled,) = drawn(server, with_sampling(drawing))
    assert np.array_equal(overruled, free) and not np.array_equal(greedy, free)


def test_without_a_sampling_the_models_own_min_p_counts(server: ComfyServer, picky: Graph) -> None:
    (unwired,) = drawn(server, picky)
    (own,) = drawn(server, with_sampling(picky))
    (off,) = drawn(server, with_sampling(picky, min_p=0.0))
    assert np.array_equal(unwired, own) and not np.array_equal(own, off)


def test_pictures_with_a_sampling_are_saved_with_their_seeds(server: ComfyServer, drawing: Graph) -> None:
    draw = node_of(drawing, "JanusTextToImage")
    drawing[draw]["inputs"] |= {"seed": 5, "batch_size": 2}
    run = server.run(with_sampling(drawing, min_p=0.02))
    for picture in server.pictures(run, node_of(drawing, "SaveImage")):
        assert json.loads(picture.info["janus_seeds"]) == {draw: [5, 6]}
