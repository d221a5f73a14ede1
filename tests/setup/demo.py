"""`make demo`: run a shipped workflow in a real ComfyUI without a browser, and print the result."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path

from comfy_server import PACK, ComfyServer, Message, node_of, shipped
from tqdm import tqdm

WORKFLOW = "draw_then_describe"
PICTURES = PACK / "demo"


class Bar:
    """A progress bar for each node that reports steps, labelled with the node's title."""

    def __init__(self, titles: dict[str, str]):
        self.titles = titles
        self.bars: dict[str, tqdm] = {}

    def __call__(self, message: Message) -> None:
        data = message["data"]
        if message["type"] != "progress":
            return
        if (node := data["node"]) not in self.bars:
            self.bars[node] = tqdm(desc=self.titles[node], total=data["max"], unit="step", file=sys.stdout)
        bar = self.bars[node]
        bar.update(data["value"] - bar.n)
        if bar.n == data["max"]:
            bar.close()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `with` below always stops the server
    graph = shipped(WORKFLOW)
    load, draw, save, ask = (
        node_of(graph, kind) for kind in ("JanusLoader", "JanusTextToImage", "SaveImage", "JanusDescribeImage")
    )
    with tempfile.TemporaryDirectory() as base:
        print("==> Starting ComfyUI", flush=True)
        with ComfyServer(Path(base)) as server:
            print(f"==> Running workflows/api/{WORKFLOW}.json", flush=True)
            run = server.run(graph, Bar({number: node["_meta"]["title"] for number, node in graph.items()}))
            if run.end != "execution_success":
                sys.exit(f"The workflow failed: {run.error}")
        saved = run.outputs[save]["images"][0]["filename"]
        PICTURES.mkdir(exist_ok=True)
        shutil.copy(Path(base, "output", saved), PICTURES)
    checkpoint = graph[load]["inputs"]["checkpoint"]
    print(f"\nPrompt:   {graph[draw]['inputs']['prompt']}")
    print(f"Picture:  {PICTURES / saved}")
    print(f"Question: {graph[ask]['inputs']['question']}")
    print(f"Answer:   {run.outputs[ask]['text'][0]!r}")
    if "embedded" in checkpoint:
        print("\nThis model knows only coloured shapes. For anything else put a Janus-Pro into ComfyUI's models/janus.")


if __name__ == "__main__":
    main()
