"""What ComfyUI says about the nodes, and which checkpoints they offer."""

import json
import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, node_of, shipped

from janus_core.model.cpu_ops import cpu_compute_dtype

TINY = PACK / "tests" / "data" / "tiny_deepseek"
NODES = {
    "JanusLoader": "Load Janus",
    "JanusLoRA": "Janus LoRA",
    "JanusTextToImage": "Janus Text-to-Image",
    "JanusPrompt": "Janus Prompt",
    "JanusSampling": "Janus Sampling",
    "JanusRepaint": "Janus Repaint",
    "JanusVariations": "Janus Variations",
    "JanusEdit": "Janus Edit",
    "JanusDescribeImage": "Janus Describe Image",
    "JanusChat": "Janus Chat",
    "JanusTextModel": "Janus Text Model",
    "JanusCaptionFolder": "Janus Caption Folder",
    "JanusCheck": "Janus Check",
    "JanusPickBest": "Janus Pick Best",
    "JanusDrawBest": "Janus Draw Best",
    "JanusVQDecode": "VQ Decode",
    "JanusVQEncode": "VQ Encode",
    "JanusPickTokens": "Pick Tokens",
    "JanusJoinTokens": "Join Tokens",
    "JanusSaveTokens": "Save Tokens",
    "JanusLoadTokens": "Load Tokens",
    "JanusSave": "Save Janus",
}


Offered = Callable[[], list[str]]


def test_the_nodes_are_there(nodes: dict[str, Any]) -> None:
    assert {name: node["display_name"] for name, node in nodes.items()} == NODES
    assert {node["category"] for node in nodes.values()} == {"Janus"}


def test_three_bare_nodes_draw_a_picture(server: ComfyServer, nodes: dict[str, Any]) -> None:
    def bare(kind: str, **links: list) -> dict[str, Any]:
        given = {
            name: options["default"]
            for name, (_, options) in nodes[kind]["input"]["required"].items()
            if name not in links
        }
        return {"class_type": kind, "inputs": given | links}

    graph: Graph = {"1": bare("JanusLoader"), "2": bare("JanusTextToImage", janus=["1", 0])}
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    (picture,) = server.pictures(run, "3")
    middle = np.asarray(picture)[44:52, 44:52].mean((0, 1))
    assert middle[0] > 180 and middle[1:].max() < 90  # a red circle


def test_the_list_that_comfyui_manager_reads_is_of_these_nodes(nodes: dict[str, Any]) -> None:
    listed = json.loads((PACK / "node_list.json").read_text(encoding="utf-8"))
    assert listed == {name: node["description"] for name, node in nodes.items()}


@pytest.mark.parametrize("name", NODES)
def test_every_input_output_and_node_explains_itself(nodes: dict[str, Any], name: str) -> None:
    node = nodes[name]
    assert node["description"]
    for group in ("required", "optional"):
        for key, (_, options) in node["input"].get(group, {}).items():
            assert len(options.get("tooltip", "")) > 20, key
    assert len(node["output_tooltips"] or []) == len(node["output"])
    assert all(node["output_tooltips"] or [])
    assert all(label != kind for label, kind in zip(node["output_name"], node["output"], strict=True))


def test_offers_the_embedded_checkpoint_first_and_those_of_every_model_folder(offered: Offered) -> None:
    names = offered()
    assert names[0] == "janus-mini (embedded, draws shapes)"
    assert {"tiny", "Janus-Pro-tiny", "family/tiny elsewhere"} <= set(names)


def test_offers_a_single_weight_file_beside_its_config(server: ComfyServer, offered: Offered) -> None:
    folder = server.base / "models" / "janus" / "single"
    shutil.copytree(TINY, folder)
    (folder / "model.safetensors").rename(folder / "my finetune.safetensors")
    assert "single/my finetune.safetensors" in offered()
    assert "single" not in offered()


def test_folders_without_config_or_weights_are_not_offered(server: ComfyServer, offered: Offered) -> None:
    for name, file in (("only config", "config.json"), ("only weights", "model.safetensors")):
        (server.base / "models" / "janus" / name).mkdir()
        shutil.copy(TINY / file, server.base / "models" / "janus" / name)
    assert not {"only config", "only weights"} & set(offered())


@pytest.mark.parametrize("name", ["tiny", "Janus-Pro-tiny", "family/tiny elsewhere"])
def test_checkpoints_of_every_model_folder_draw_the_same(server: ComfyServer, drawing: Graph, name: str) -> None:
    pictures = []
    for checkpoint in ("tiny", name):
        drawing[node_of(drawing, "JanusLoader")]["inputs"]["checkpoint"] = checkpoint
        run = server.run(drawing)
        assert run.end == "execution_success"
        pictures.append(server.pictures(run, node_of(drawing, "SaveImage"))[0].tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("dtype", ["auto", "bf16", "fp16", "fp32", "fp8_e4m3fn", "int8"])
def test_draws_and_answers_in_every_dtype(server: ComfyServer, describing: Graph, drawing: Graph, dtype: str) -> None:
    for graph in (describing, drawing):
        graph[node_of(graph, "JanusLoader")]["inputs"]["dtype"] = dtype
        assert server.run(graph).end == "execution_success"


def test_the_checkpoint_may_come_over_a_link(server: ComfyServer, drawing: Graph) -> None:
    drawing["name"] = {"class_type": "Anything", "inputs": {"value": "tiny"}}
    drawing[node_of(drawing, "JanusLoader")]["inputs"]["checkpoint"] = ["name", 0]
    assert server.run(drawing).end == "execution_success"


def test_an_unchanged_graph_is_taken_from_the_cache(server: ComfyServer, drawing: Graph) -> None:
    server.run(drawing)
    assert server.run(drawing).executed() == set()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_checkpoint_replaced_on_disk_is_loaded_again(server: ComfyServer, drawing: Graph, name: str) -> None:
    checkpoint = server.base / "models" / "janus" / f"replaced-{name}"
    shutil.copytree(TINY, checkpoint)
    loader = node_of(drawing, "JanusLoader")
    drawing[loader]["inputs"]["checkpoint"] = checkpoint.name
    server.run(drawing)
    replaced = checkpoint / name
    os.utime(replaced, ns=(0, replaced.stat().st_mtime_ns + 1_000_000_000))
    assert loader in server.run(drawing).executed()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("text_to_image", {"JanusLanguage", "JanusPictureHead", "JanusVQ"}),
        ("describe_image", {"JanusUnderstanding", "JanusLanguage", "JanusTextHead"}),
    ],
)
def test_only_the_parts_that_are_used_are_asked_for(server: ComfyServer, name: str, parts: set[str]) -> None:
    server.forget()
    seen = len(server.log.read_text())
    assert server.run(shipped(name)).end == "execution_success"
    assert set(re.findall(r"Requested to load (\w+)", server.log.read_text()[seen:])) == parts


def test_the_log_says_what_dtype_auto_is(server: ComfyServer, drawing: Graph) -> None:
    server.forget()
    seen = len(server.log.read_text())
    drawing[node_of(drawing, "JanusLoader")]["inputs"]["dtype"] = "auto"
    assert server.run(drawing).end == "execution_success"
    best = "bf16" if cpu_compute_dtype() == torch.bfloat16 else "fp32"
    assert re.search(rf"dtype auto is {best} for .*tiny, as cpu has \d+\.\d GB", server.log.read_text()[seen:])
