"""Thinking in a real server: what the node shows and gives is what the core thinks and draws."""

import re

import numpy as np
import pytest
from comfy_server import PACK, ComfyServer, Graph, node_of

import janus_core
from janus_core import thinking

TINY = PACK / "tests" / "data" / "tiny_deepseek"
PROMPT = "an owl, at night"


def thoughtful(graph: Graph, **inputs: object) -> Graph:
    draw = node_of(graph, "JanusTextToImage")
    graph[draw]["inputs"] |= {"prompt": PROMPT, "batch_size": 2, "seed": 3, **inputs}
    graph["said"] = {"class_type": "PreviewAny", "inputs": {"source": [draw, 2]}}
    return graph


@pytest.mark.parametrize("dialect", ["auto", "T2I-R1", "ReasonGen-R1"])
def test_the_thought_is_shown_given_and_drawn_from(server: ComfyServer, drawing: Graph, dialect: str) -> None:
    thoughtful(drawing, thinking="on")
    drawing[node_of(drawing, "JanusLoader")]["inputs"] |= {"dtype": "fp32", "dialect": dialect}
    run = server.run(drawing)
    assert run.end == "execution_success", run.error
    janus = janus_core.load(TINY, dialect=None if dialect == "auto" else dialect)
    inputs = drawing[node_of(drawing, "JanusTextToImage")]["inputs"]
    settings = {"cfg_weight": inputs["cfg"], "temperature": inputs["temperature"], "top_k": inputs["top_k"]}
    tokens, thoughts = janus_core.think_and_draw(janus, PROMPT, 2, seed=3, **settings, top_p=inputs["top_p"])
    said = [thought.text for thought in thoughts]
    assert run.outputs[node_of(drawing, "JanusTextToImage")]["janus_thoughts"] == said
    assert run.outputs["said"]["text"] == said
    pictures = server.pictures(run, node_of(drawing, "SaveImage"))
    for picture, expected in zip(pictures, janus.decode(tokens), strict=True):
        assert np.abs(np.asarray(picture) / 255 - expected.numpy()).max() < 0.01


def test_the_text_head_is_asked_for_when_it_is_used(server: ComfyServer, drawing: Graph) -> None:
    for how, more in (("off", set()), ("on", {"JanusTextHead"})):
        server.forget()
        seen = len(server.log.read_text())
        assert server.run(thoughtful(drawing, thinking=how, seed=9)).end == "execution_success"
        asked = set(re.findall(r"Requested to load (\w+)", server.log.read_text()[seen:]))
        assert asked == {"JanusLanguage", "JanusPictureHead", "JanusVQ"} | more


def test_off_gives_the_prompt_and_the_picture_of_before(server: ComfyServer, drawing: Graph) -> None:
    before = server.pictures(server.run(thoughtful(drawing)), node_of(drawing, "SaveImage"))
    run = server.run(thoughtful(drawing, thinking="off"))
    assert run.outputs["said"]["text"] == [PROMPT] * 2
    after = server.pictures(run, node_of(drawing, "SaveImage"))
    assert [picture.tobytes() for picture in before] == [picture.tobytes() for picture in after]


def test_an_unknown_thinking_is_refused(server: ComfyServer, drawing: Graph) -> None:
    drawing["odd"] = {"class_type": "Anything", "inputs": {"value": "perhaps"}}
    assert "thinking is 'perhaps'" in server.run(thoughtful(drawing, thinking=["odd", 0])).error


def test_janus_prompt_writes_what_the_core_does(server: ComfyServer, drawing: Graph) -> None:
    loader = node_of(drawing, "JanusLoader")
    inputs = {"janus": [loader, 0], "prompt": PROMPT, "seed": 4, "temperature": 0.7, "max_tokens": 12}
    graph = {loader: drawing[loader], "write": {"class_type": "JanusPrompt", "inputs": inputs}}
    graph[loader]["inputs"]["dtype"] = "fp32"
    graph["said"] = {"class_type": "PreviewAny", "inputs": {"source": ["write", 0]}}
    run = server.run(graph)
    janus = janus_core.load(TINY)
    [thought] = thinking.think(janus, PROMPT, seed=4, temperature=0.7, max_tokens=12)
    text = thinking.better_prompt(janus, PROMPT, thought)
    assert run.outputs["write"]["text"] == run.outputs["said"]["text"] == [text]
