"""Dialects in a real server: what the log says was taken, what is refused, and that the weights are there once."""

import re
from typing import Any

import pytest
from comfy_server import ComfyServer, Graph, node_of


def speaking(graph: Graph, dialect: Any) -> Graph:
    graph[node_of(graph, "JanusLoader")]["inputs"]["dialect"] = dialect
    return graph


@pytest.mark.parametrize(("dialect", "taken"), [("auto", "Janus-Pro"), ("T2I-R1", "T2I-R1")])
def test_the_log_says_what_was_taken(server: ComfyServer, drawing: Graph, dialect: str, taken: str) -> None:
    server.forget()
    seen = len(server.log.read_text())
    assert server.run(speaking(drawing, dialect)).end == "execution_success"
    assert re.search(rf"Janus: .*tiny is spoken to as {taken}\n", server.log.read_text()[seen:])


def test_a_workflow_saved_before_there_were_dialects_draws_the_same(server: ComfyServer, drawing: Graph) -> None:
    save, pictures = node_of(drawing, "SaveImage"), []
    for dialect in ("auto", None):
        speaking(drawing, dialect)
        if dialect is None:
            del drawing[node_of(drawing, "JanusLoader")]["inputs"]["dialect"]
        pictures.append(server.pictures(server.run(drawing), save)[0].tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("wrong", ["Klingon", 5, {"a": 1}, True])
def test_a_wrong_dialect_over_a_link_is_one_sentence(server: ComfyServer, drawing: Graph, wrong: Any) -> None:
    drawing["odd"] = {"class_type": "Anything", "inputs": {"value": wrong}}
    run = server.run(speaking(drawing, ["odd", 0]))
    assert run.end == "execution_error"
    assert re.search("no dialect .*: choose Janus-1.3B, ", run.error) and "\n" not in run.error


@pytest.mark.parametrize("wrong", ["yes", 1, None, {"a": 1}])
def test_a_wrong_draw_over_a_link_is_one_sentence(server: ComfyServer, drawing: Graph, wrong: Any) -> None:
    loader = node_of(drawing, "JanusLoader")
    inputs = {"janus": [loader, 0], "message": "Draw.", "max_tokens": 5, "temperature": 0.0, "seed": 0, "drop_turns": 0}
    graph = {
        loader: drawing[loader],
        "odd": {"class_type": "Anything", "inputs": {"value": wrong}},
        "chat": {"class_type": "JanusChat", "inputs": {**inputs, "draw": ["odd", 0]}},
    }
    error = server.run(graph).error
    assert re.search("draw is .* must be on or off", error) and "\n" not in error
