"""Which of ours stand for another pack's nodes: told to a ComfyUI that replaces nodes; `web/` does it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

from comfy_api import latest

TABLE = Path(__file__).parents[1] / "web" / "replacements.json"


async def register() -> None:
    """Have ComfyUI replace the nodes of CY-CHENYUE/ComfyUI-Janus-Pro in workflows and prompts, where it can."""
    if hasattr(latest.io, "NodeReplace"):
        for rule in json.loads(TABLE.read_text(encoding="utf-8")):
            await latest.ComfyAPI().node_replacement.register(latest.io.NodeReplace(**rule))
