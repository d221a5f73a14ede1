"""Our replacements for another pack's nodes in prompts sent to the API, for versions of ComfyUI that replace nodes.

On the canvas, `web/js/replace_nodes.js` replaces them in every version.
"""

import json
from pathlib import Path
from typing import Any

from comfy_api import latest

from .host import canvas, folders

TABLE = Path(__file__).parents[1] / "web" / "replacements.json"
_registered: dict[str, dict[str, Any]] = {}  # the rules that this ComfyUI follows, by the old node's type


async def register() -> None:
    """Have ComfyUI replace the nodes of CY-CHENYUE/ComfyUI-Janus-Pro in prompts, if this version can."""
    if hasattr(latest.io, "NodeReplace"):
        for rule in json.loads(TABLE.read_text(encoding="utf-8")):
            await latest.ComfyAPI().node_replacement.register(latest.io.NodeReplace(**rule))
            _registered[rule["old_node_id"]] = rule


def kind_of(node: Any) -> str | None:
    """The type of a prompt's node as it will run: ours for a node that ComfyUI will replace. None for no node."""
    # Not a dict: the server rejects it later.
    kind = node.get("class_type") if isinstance(node, dict) else None
    if not isinstance(kind, str):
        return None
    return _registered[kind]["new_node_id"] if kind in _registered and not canvas.node_class(kind) else kind


def complete(request: dict[str, Any]) -> dict[str, Any]:
    """Add to each node of a request's prompt that ComfyUI will replace what it reads there without looking first.

    That is `_meta` and every input of the rule. A number gets our node's default. Anything else gets an empty value, which
    is refused in a sentence. A checkpoint is named as Load Janus lists it.
    """
    for node in request.get("prompt", {}).values():
        new_kind = kind_of(node)
        if new_kind and new_kind != node["class_type"] and isinstance(node.get("inputs"), dict):
            if not isinstance(node.get("_meta"), dict):
                node["_meta"] = {}
            given = node["inputs"]
            for entry in _registered[node["class_type"]]["input_mapping"]:
                if "old_id" in entry:
                    given.setdefault(entry["old_id"], _missing_value(new_kind, entry["new_id"]))
            if isinstance(name := given.get("model_name"), str):
                given["model_name"] = _as_listed(name)
    return request


def _missing_value(kind: str, name: str) -> int | float | str | list:
    ours = canvas.node_class(kind)
    socket, options = ours.INPUT_TYPES()["required"][name] if ours else ("", {})
    if socket in ("INT", "FLOAT"):
        return options["default"]
    return "" if socket in ("STRING", "COMBO") else []  # a link to nothing


def _as_listed(checkpoint: str) -> str:
    """`checkpoint`, or what is listed with the same last name: deepseek-ai/Janus-Pro-1B may be listed as Janus-Pro-1B."""
    listed = folders.checkpoints()
    if checkpoint in listed:
        return checkpoint
    last_name = checkpoint.split("/")[-1]
    return next((name for name in listed if name.split("/")[-1] == last_name), checkpoint)
