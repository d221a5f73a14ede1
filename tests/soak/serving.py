"""Graphs for a real ComfyUI server: good ones, whose pictures are compared, and wrong ones, made by random numbers."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import requests
from comfy_server import ENDS, ComfyServer, Graph, Run, node_of, shipped
from damage import DATA, DEEP, ODD_VALUES
from judging import ESCAPE, HANG, LONGEST, REFUSED, RIGHT, SENTENCES, Outcome, Tally, flaw
from other_pack import ANYTHING
from sample_files import write_input_pictures
from settings import odd_text

NAMES = {kind.__name__ for kind in SENTENCES}
# A list of two is a link; one to nowhere is ComfyUI's own to refuse.
VALUES = [value for value in ODD_VALUES if value is not DEEP and not (isinstance(value, list) and len(value) == 2)]
SHIPPED = ("text_to_image", "describe_image", "chat", "tokens_decode", "draw_then_describe")


def fill(base: Path, originals: Path) -> None:
    """Put a tiny checkpoint, a LoRA, pictures and another pack's nodes into a server's folders."""
    (base / "custom_nodes" / "anything.py").write_text(ANYTHING)
    write_input_pictures(base / "input")
    shutil.copytree(DATA / "tiny_deepseek", base / "models" / "janus" / "tiny", dirs_exist_ok=True)
    (base / "models" / "loras").mkdir(parents=True, exist_ok=True)
    shutil.copy(originals / "lora" / "lora.safetensors", base / "models" / "loras")


def graph_of(name: str, seed: int = 0, checkpoint: str = "tiny", **drawing: Any) -> Graph:
    """A shipped workflow on the tiny model that keeps no files: another seed runs in full, in spite of ComfyUI's cache."""
    graph = shipped(name)
    for node in graph.values():
        inputs = node["inputs"]
        if node["class_type"] == "JanusLoader":
            inputs |= {"checkpoint": checkpoint, "dtype": "fp32"}
        elif node["class_type"] == "JanusTextToImage":
            inputs |= {"seed": seed, **drawing}
        elif node["class_type"] == "SaveImage":
            node["class_type"] = "PreviewImage"
            del inputs["filename_prefix"]
        if "max_tokens" in inputs:
            inputs |= {"max_tokens": 8, "seed": seed, "temperature": 1.0}
    return graph


def saving(filename: str, dtype: str = "fp32") -> Graph:
    """Save the tiny model as one file."""
    inputs = {"checkpoint": "tiny", "dtype": dtype, "filename": filename}
    return {"save": {"class_type": "JanusSave", "inputs": inputs}}


def _with_lora() -> Graph:
    graph = graph_of("text_to_image")
    inputs = {"janus": [node_of(graph, "JanusLoader"), 0], "lora": "lora.safetensors", "strength": 1.0}
    graph["lora"] = {"class_type": "JanusLoRA", "inputs": inputs}
    graph[node_of(graph, "JanusTextToImage")]["inputs"]["janus"] = ["lora", 0]
    return graph


def wrong_graph(draw: Random, number: int) -> tuple[Graph, str]:
    """A graph with one to three odd inputs of Janus nodes, and what is odd."""
    makers = [lambda name=name: graph_of(name, seed=10_000 + number) for name in SHIPPED]
    graph = draw.choice([*makers, _with_lora, lambda: saving(f"saved {number}")])()
    ours = [(node, name) for node, value in graph.items() if "Janus" in value["class_type"] for name in value["inputs"]]
    sources = [[node, 0] for node, value in graph.items() if value["class_type"] in ("JanusLoader", "LoadImage")]
    said = []
    for node, name in draw.sample(ours, min(len(ours), draw.choice((1, 1, 2, 3)))):
        kind = draw.choice(("value", "value", "text", "over a link", "over a link", "another output", "missing"))
        inputs = graph[node]["inputs"]
        value: Any = odd_text(draw) if kind == "text" else copy.deepcopy(draw.choice(VALUES))
        if kind == "missing":
            del inputs[name]
        elif kind == "another output" and sources:
            inputs[name] = draw.choice(sources)
        elif kind == "over a link":
            graph[f"odd {name}"] = {"class_type": "Whatever", "inputs": {"value": {"__value__": value}}}
            inputs[name] = [f"odd {name}", 0]
        else:
            inputs[name] = value
        said.append(f"{graph[node]['class_type']}.{name} {kind} {str(value)[:60]!r}")
    return graph, "; ".join(said)


def outcome_of(server: ComfyServer, graph: Graph) -> Outcome:
    """Run a graph and judge its end; what ComfyUI says about its own checks is not judged."""
    try:
        run = server.run(graph, timeout=LONGEST)
    except TimeoutError:
        return Outcome(HANG, f"no end after {LONGEST:.0f} s")
    except (ConnectionError, OSError, ValueError, KeyError, requests.RequestException) as error:
        return Outcome(ESCAPE, f"the server answered with no end: {type(error).__name__}: {str(error)[-600:]}")
    return judge_run(run)


def judge_run(run: Run) -> Outcome:
    """The outcome of a run that came to an end."""
    data = run.messages[-1]["data"]
    if run.end == "execution_error":
        named, said = data["exception_type"].rpartition(".")[2] in NAMES, data["exception_message"].strip()
        problem = flaw(said) if named else data["exception_type"]
        if problem:
            return Outcome(ESCAPE, f"{problem} of {data['node_type']}: {said!r}; {data['traceback'][-1]}")
        return Outcome(REFUSED, said)
    if run.end == "rejected":
        for error in (error for node in data.values() for error in node["errors"]):
            if error["type"] == "exception_during_validation":
                return Outcome(ESCAPE, json.dumps(error))
            if error["type"] == "custom_validation_failed" and (problem := flaw(error["details"].strip())):
                return Outcome(ESCAPE, f"{problem}: {error['details']!r}")
        return Outcome(REFUSED, run.error)
    return Outcome(RIGHT if run.end in ENDS else ESCAPE, run.end)


class GoodRuns:
    """Runs whose pictures and answers must be those of the first run with the same graph."""

    def __init__(self, server: ComfyServer):
        self.server, self.first, self.turn = server, {}, 0

    def check(self, tally: Tally, name: str = "text_to_image", seed: int = 0, **drawing: Any) -> None:
        """One good run, counted."""
        graph = graph_of(name, seed, **drawing)
        other = graph_of("text_to_image", 999 + self.turn % 2)
        outcome = outcome_of(self.server, other)  # what ComfyUI has cached goes
        self.turn += 1
        made = ""
        if outcome.kind == RIGHT:
            try:
                run = self.server.run(graph, timeout=6 * LONGEST)
                outcome, made = judge_run(run), self._digest(run)
            except (TimeoutError, OSError, ValueError) as error:
                outcome = Outcome(HANG if isinstance(error, TimeoutError) else ESCAPE, repr(error))
        expected = self.first.setdefault(json.dumps(graph), made)
        if outcome.kind != RIGHT or made != expected:
            outcome = Outcome(HANG if outcome.kind == HANG else ESCAPE, f"the good run made something else: {outcome}")
        tally.add(outcome, f"good run, {name} {seed}")

    def _digest(self, run: Run) -> str:
        digest = hashlib.sha256()
        for node, output in sorted(run.outputs.items()):
            digest.update(json.dumps([output.get("text"), output.get("janus_turns")]).encode())
            if "images" in output:
                for picture in self.server.pictures(run, node):
                    digest.update(picture.tobytes())
        return digest.hexdigest()
