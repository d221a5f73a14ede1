"""One real ComfyUI for all these tests, with pictures in its input folder and checkpoints in its model folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from comfy_server import PACK, ComfyServer, Graph, node_of, shipped
from other_pack import ANYTHING
from sample_files import write_checkpoint, write_input_pictures, write_upscaler

TINY = PACK / "tests" / "data" / "tiny_deepseek"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("comfy")
    elsewhere = base / "elsewhere"
    (base / "extra.yaml").write_text(
        json.dumps({"tests": {"base_path": str(elsewhere), "janus": "checkpoints", "janus_datasets": "albums"}})
    )
    running = ComfyServer(base, "--extra-model-paths-config", str(base / "extra.yaml"))
    (base / "custom_nodes" / "anything.py").write_text(ANYTHING)
    write_input_pictures(base / "input")
    write_upscaler(base / "models" / "upscale_models")
    write_checkpoint(base / "models" / "checkpoints")
    shutil.copytree(TINY, base / "models" / "janus" / "tiny")
    shutil.copytree(TINY, base / "models" / "Janus-Pro" / "Janus-Pro-tiny")
    shutil.copytree(TINY, elsewhere / "checkpoints" / "family" / "tiny elsewhere")
    with running:
        yield running


@pytest.fixture(scope="session")
def nodes(server: ComfyServer) -> dict[str, Any]:
    """What ComfyUI says about each of the pack's nodes."""
    info = server.get("/object_info").json()
    return {name: node for name, node in info.items() if node["python_module"] == "custom_nodes.janus-nodes"}


@pytest.fixture
def offered(server: ComfyServer) -> Callable[[], list[str]]:
    """Asks for the checkpoints that Load Janus offers now."""

    def ask() -> list[str]:
        node = server.get("/object_info/JanusLoader").json()["JanusLoader"]
        return node["input"]["required"]["checkpoint"][1]["options"]

    return ask


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
    """In float32, in which a batch and the core give the very same; what auto is depends on the machine."""
    graph[node_of(graph, "JanusLoader")]["inputs"] |= {"checkpoint": name, "dtype": "fp32"}
    return graph
