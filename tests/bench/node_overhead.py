"""Benchmark: the same picture through a real ComfyUI and through the core, in turns; what the node and its host add.

    python tests/bench/node_overhead.py [--checkpoint DIR] [--dtype bf16] [--rounds 7] [--preview-method auto]

In the venv of `make setup`. Both have the model loaded. ComfyUI's time is that between its messages that Janus
Text-to-Image begins and that it has ended: progress messages and previews are in it, saving the PNG is not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "setup"), str(ROOT / "tests" / "support")]

import torch
from comfy_server import ComfyServer, Graph, Message, node_of, shipped

import janus_core
from janus_core.precision import NAMES


def through_comfyui(server: ComfyServer, graph: Graph) -> float:
    """Seconds that the node took."""
    node = node_of(graph, "JanusTextToImage")
    times: list[float] = []

    def watch(message: Message) -> None:
        if message["type"] == "executing" and (times or message["data"]["node"] == node):
            times.append(time.perf_counter())

    run = server.run(graph, watch, timeout=None)
    if run.end != "execution_success":
        sys.exit(f"The workflow failed: {run.error}")
    return times[1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a Janus folder (default: the embedded one)")
    parser.add_argument("--dtype", default="fp32", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--preview-method", default="none", choices=("none", "auto", "latent2rgb", "taesd"))
    arguments = parser.parse_args()
    graph = shipped("text_to_image")
    load, draw = node_of(graph, "JanusLoader"), node_of(graph, "JanusTextToImage")
    graph[load]["inputs"]["dtype"] = arguments.dtype
    janus = janus_core.load(arguments.checkpoint or janus_core.DEFAULT_CHECKPOINT, dtype=arguments.dtype)
    shown = ("--preview-method", arguments.preview_method)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base), *shown, **threads) as server:
        if arguments.checkpoint:
            folder = Path(base, "models", "janus", "measured")
            folder.symlink_to(arguments.checkpoint.resolve(), target_is_directory=True)
            graph[load]["inputs"]["checkpoint"] = "measured"
        inputs = graph[draw]["inputs"]
        node, core = [], []
        for seed in range(arguments.rounds + 1):
            inputs["seed"] = seed
            node.append(through_comfyui(server, graph))
            start = time.perf_counter()
            janus.decode(janus.generate(inputs["prompt"], seed=seed, cfg_weight=inputs["cfg"]))
            core.append(time.perf_counter() - start)
    medians = [statistics.median(values[1:]) for values in (node, core)]  # the first one loads and warms up
    added = medians[0] - medians[1]
    print(f"node {medians[0]:.3f} s, core {medians[1]:.3f} s: {added * 1e3:+.0f} ms, {added / medians[1]:+.1%}")


if __name__ == "__main__":
    main()
