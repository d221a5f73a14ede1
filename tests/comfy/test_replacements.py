"""The table by which another pack's nodes become ours, and how a ComfyUI that replaces nodes gets it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from comfy_server import PACK, ComfyServer

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


@pytest.mark.parametrize("newer", [True, False])
def test_a_comfyui_that_replaces_nodes_gets_all_rules(monkeypatch: pytest.MonkeyPatch, newer: bool) -> None:
    """A stand-in for such a ComfyUI records the rules."""
    registered: list[NodeReplace] = []

    async def register(rule: NodeReplace) -> None:
        registered.append(rule)

    api = SimpleNamespace(node_replacement=SimpleNamespace(register=register))
    latest = SimpleNamespace(ComfyAPI=lambda: api, io=SimpleNamespace(NodeReplace=NodeReplace) if newer else object())
    package = ModuleType("comfy_api")
    package.__dict__["latest"] = latest
    monkeypatch.setitem(sys.modules, "comfy_api", package)
    spec = importlib.util.spec_from_file_location("replacements", PACK / "nodes" / "replacements.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asyncio.run(module.register())
    assert [vars(rule) for rule in registered] == (RULES if newer else [])
