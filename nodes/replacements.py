"""Our replacements for another pack's nodes, for versions of ComfyUI that replace nodes; `web/` does it for others."""

import json
from pathlib import Path

from comfy_api import latest

TABLE = Path(__file__).parents[1] / "web" / "replacements.json"


async def register() -> None:
    """Have ComfyUI replace the nodes of CY-CHENYUE/ComfyUI-Janus-Pro in workflows and prompts, if this version can."""
    if hasattr(latest.io, "NodeReplace"):
        for rule in json.loads(TABLE.read_text(encoding="utf-8")):
            await latest.ComfyAPI().node_replacement.register(latest.io.NodeReplace(**rule))
