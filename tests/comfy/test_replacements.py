"""The table by which another pack's nodes become ours, and prompts with such nodes where ComfyUI replaces them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from comfy_server import PACK, ComfyServer, Graph

RULES = json.loads((PACK / "web" / "replacements.json").read_text())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["old_node_id"])
def test_each_rule_fills_every_input_of_our_node_and_no_other(server: ComfyServer, rule: dict[str, Any]) -> None:
    name = rule["new_node_id"]
    node = server.get(f"/object_info/{name}").json()[name]
    assert {entry["new_id"] for entry in rule["input_mapping"]} == set(node["input"]["required"])
    assert all(entry["new_idx"] < len(node["output"]) for entry in rule["output_mapping"])


@dataclass
class NodeReplace:
    """The arguments that ComfyUI's own takes."""

    new_node_id: str
    old_node_id: str
    old_widget_ids: list[str] | None = None
    input_mapping: list[dict[str, Any]] | None = None
    output_mapping: list[dict[str, Any]] | None = None


class OurNode:
    """Has every input of the rules, as ComfyUI describes them."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        numbers = {"seed": ("INT", 0), "batch_size": ("INT", 1), "cfg": ("FLOAT", 5.0), "temperature": ("FLOAT", 1.0)}
        numbers["max_tokens"] = ("INT", 256)
        required = {name: (socket, {"default": default}) for name, (socket, default) in numbers.items()}
        texts = {"checkpoint": ("COMBO", {}), "prompt": ("STRING", {}), "question": ("STRING", {})}
        return {"required": required | texts | {"janus": ("JANUS", {}), "image": ("IMAGE", {})}}


def load_replacements(monkeypatch: pytest.MonkeyPatch, newer: bool, *installed: str) -> tuple[Any, list[NodeReplace]]:
    """Our module beside a stand-in for ComfyUI, and the rules that this gets."""
    registered: list[NodeReplace] = []

    async def register(rule: NodeReplace) -> None:
        registered.append(rule)

    api = SimpleNamespace(node_replacement=SimpleNamespace(register=register))
    latest = SimpleNamespace(ComfyAPI=lambda: api, io=SimpleNamespace(NodeReplace=NodeReplace) if newer else object())
    known = {kind: OurNode for kind in (*installed, *(rule["new_node_id"] for rule in RULES))}
    host = {
        "canvas": SimpleNamespace(node_class=known.get),
        "folders": SimpleNamespace(checkpoints=lambda: {"embedded": "", "family/Janus-Pro-1B": ""}),
    }
    for name, contents in {"comfy_api": {"latest": latest}, "pack": {}, "pack.host": host}.items():
        package = ModuleType(name)
        package.__dict__.update(contents, __path__=[])
        monkeypatch.setitem(sys.modules, name, package)
    spec = importlib.util.spec_from_file_location("pack.replacements", PACK / "nodes" / "replacements.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asyncio.run(module.register())
    return module, registered


@pytest.mark.parametrize("newer", [True, False])
def test_a_comfyui_that_replaces_nodes_gets_all_rules(monkeypatch: pytest.MonkeyPatch, newer: bool) -> None:
    _, registered = load_replacements(monkeypatch, newer)
    assert [vars(rule) for rule in registered] == (RULES if newer else [])


def bare() -> Graph:
    """Nodes of the other pack without any input that our rules read."""
    return {rule["old_node_id"]: {"class_type": rule["old_node_id"], "inputs": {}} for rule in RULES}


def test_what_comfyui_reads_of_a_replaced_node_is_there_before_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = load_replacements(monkeypatch, True)
    prompt = module.complete({"prompt": bare()})["prompt"]
    assert [node["_meta"] for node in prompt.values()] == [{}] * len(RULES)
    assert prompt["JanusModelLoader"]["inputs"] == {"model_name": ""}
    drawing = {"model": [], "prompt": "", "seed": 0, "batch_size": 1, "cfg_weight": 5.0, "temperature": 1.0}
    assert prompt["JanusImageGeneration"]["inputs"] == drawing
    for rule in RULES:
        read = {entry["old_id"] for entry in rule["input_mapping"] if "old_id" in entry}
        assert prompt[rule["old_node_id"]]["inputs"].keys() == read


def test_what_a_prompt_says_is_kept_and_its_checkpoint_named_as_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = load_replacements(monkeypatch, True)
    prompt = bare()
    prompt["JanusModelLoader"] |= {"inputs": {"model_name": "deepseek-ai/Janus-Pro-1B"}, "_meta": {"title": "Mine"}}
    prompt["JanusImageGeneration"]["inputs"] |= {"seed": 7, "cfg_weight": 2}
    prompt = module.complete({"prompt": prompt})["prompt"]
    assert prompt["JanusModelLoader"]["inputs"] == {"model_name": "family/Janus-Pro-1B"}
    assert prompt["JanusModelLoader"]["_meta"] == {"title": "Mine"}
    assert (
        prompt["JanusImageGeneration"]["inputs"]["seed"],
        prompt["JanusImageGeneration"]["inputs"]["cfg_weight"],
    ) == (7, 2)


@pytest.mark.parametrize(("newer", "installed"), [(True, True), (False, False)])
def test_nodes_that_comfyui_does_not_replace_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, newer: bool, installed: bool
) -> None:
    module, _ = load_replacements(monkeypatch, newer, *(bare() if installed else ()))
    assert module.complete({"prompt": bare()}) == {"prompt": bare()}


def test_a_prompt_of_the_other_pack_draws_with_its_seeds_or_is_refused(server: ComfyServer) -> None:
    """ComfyUI 0.3.75 does not know such nodes. Newer versions replace them."""
    graph: Graph = {
        "1": {"class_type": "JanusModelLoader", "inputs": {"model_name": "deepseek-ai/Janus-Pro-tiny"}},
        "2": {
            "class_type": "JanusImageGeneration",
            "inputs": {"model": ["1", 0], "processor": ["1", 1], "prompt": "a red circle", "seed": 7, "batch_size": 2},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "replaced"}},
    }
    replaces = "node_replacements" in server.get("/features").json()
    run = server.run(graph)
    assert run.end == ("execution_success" if replaces else "rejected")
    if replaces:
        seeds = [json.loads(picture.info["janus_seeds"]) for picture in server.pictures(run, "3")]
        assert seeds == [{"2": [7, 8]}] * 2
        del graph["2"]["inputs"]["model"]
        run = server.run(graph)
        assert run.end == "rejected"
        assert "janus" in run.error
        graph["2"]["inputs"]["model"] = ["1", 0]
        del graph["1"]["inputs"]["model_name"]
        assert "There is no Janus checkpoint ''" in server.run(graph).error
