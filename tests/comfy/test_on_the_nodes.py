"""What the server sends the canvas, and what it writes into pictures: previews, words, conversations, seeds."""

import itertools
import json
from urllib.parse import urlencode

import pytest
from comfy_server import ComfyServer, Graph, Run, node_of


def change(graph: Graph, kind: str, **inputs: object) -> Graph:
    graph[node_of(graph, kind)]["inputs"] |= inputs
    return graph


def chat(graph: Graph, number: str, message: str, **inputs: object) -> list:
    loader = [node_of(graph, "JanusLoader"), 0]
    settings = {"message": message, "max_tokens": 10, "temperature": 0.0, "seed": 0, "drop_turns": 0}
    graph[number] = {"class_type": "JanusChat", "inputs": {"janus": loader, **settings, **inputs}}
    return [number, 1]


@pytest.fixture
def talking(drawing: Graph) -> Graph:
    """A loader alone, with the tiny model."""
    loader = node_of(drawing, "JanusLoader")
    return {loader: drawing[loader]}


def test_saved_pictures_know_the_seeds_of_their_batch(server: ComfyServer, drawing: Graph) -> None:
    draw = node_of(drawing, "JanusTextToImage")
    run = server.run(change(drawing, "JanusTextToImage", seed=2**64 - 2, batch_size=3))
    for picture in server.pictures(run, node_of(drawing, "SaveImage")):
        assert json.loads(picture.info["janus_seeds"]) == {draw: [2**64 - 2, 2**64 - 1, 0]}
    shown = run.outputs[draw]["janus_pictures"]
    assert [picture["seed"] for picture in shown] == [str(2**64 - 2), str(2**64 - 1), "0"]


def test_pictures_from_the_cache_are_saved_with_their_seeds_too(server: ComfyServer, drawing: Graph) -> None:
    change(drawing, "JanusTextToImage", seed=77, batch_size=2)
    server.run(drawing)
    again = server.run(change(drawing, "SaveImage", filename_prefix="again"))
    draw = node_of(drawing, "JanusTextToImage")
    assert draw not in again.executed()
    saved = server.pictures(again, node_of(drawing, "SaveImage"))
    assert [json.loads(picture.info["janus_seeds"]) for picture in saved] == [{draw: [77, 78]}] * 2


def test_a_batch_size_beyond_reason_is_only_refused(server: ComfyServer, drawing: Graph) -> None:
    run = server.run(change(drawing, "JanusTextToImage", batch_size=10**12))
    assert run.end == "rejected"


def test_each_word_is_sent_as_it_comes(server: ComfyServer, describing: Graph) -> None:
    describe = node_of(describing, "JanusDescribeImage")
    run = server.run(describing)
    words = [m["data"]["output"]["text"] for m in run.messages if m["type"] == "janus.output"]
    assert all(later.startswith(earlier) for (earlier,), (later,) in itertools.pairwise(words))
    assert words[-1] == run.outputs[describe]["text"]
    assert len({text for (text,) in words}) > 3
    assert len(words) >= len(words[-1][0].split())


@pytest.mark.parametrize("kind", ["JanusDescribeImage", "JanusChat"])
def test_an_answer_is_also_a_file_which_apps_show(server: ComfyServer, kind: str, describing: Graph) -> None:
    node = node_of(describing, "JanusDescribeImage")
    if kind == "JanusChat":
        chat(describing, node, "What is this?")
        describing[node_of(describing, "PreviewAny")]["inputs"]["source"] = [node, 0]
    run = server.run(describing)
    (file,) = run.outputs[node]["janus_files"]
    assert file["type"] == "temp" and file["filename"].endswith(".txt")
    answer = server.get("/view?" + "&".join(f"{key}={value}" for key, value in file.items()))
    answer.encoding = "utf-8"
    assert [answer.text] == run.outputs[node_of(describing, "PreviewAny")]["text"]


def turns(run: Run, number: str) -> list[tuple[str, str, int]]:
    return [(turn["role"], turn["content"], turn["pictures"]) for turn in run.outputs[number]["janus_turns"]]


def test_a_chat_goes_on_from_node_to_node(server: ComfyServer, talking: Graph) -> None:
    talking["photo"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    history = chat(talking, "first", "What is this?", image=["photo", 0])
    history = chat(talking, "second", "Which colours?", history=history)
    chat(talking, "third", "Why?", history=history)
    run = server.run(talking)
    assert run.end == "execution_success", run.error
    said = turns(run, "third")
    assert said[:4] == turns(run, "second")
    assert said[:2] == turns(run, "first")
    assert said[::2] == [("user", "What is this?", 1), ("user", "Which colours?", 0), ("user", "Why?", 0)]
    lengths = [run.outputs[number]["janus_context"][0] for number in ("first", "second", "third")]
    assert lengths == sorted(set(lengths))

    talking["second"]["inputs"]["message"] = "And the shapes?"
    other = server.run(talking)
    assert "first" not in other.executed()  # its answer is known already
    assert turns(other, "third")[3] != said[3] or turns(other, "third")[5] != said[5]


def test_what_was_said_before_changes_the_answer(server: ComfyServer, talking: Graph) -> None:
    history = chat(talking, "before", "A red circle.")
    chat(talking, "with", "What is it?", history=history, max_tokens=30)
    chat(talking, "without", "What is it?", max_tokens=30)
    chat(talking, "dropped", "What is it?", history=history, drop_turns=1, max_tokens=30)
    run = server.run(talking)
    answer = {number: turns(run, number)[-1][1] for number in ("with", "without", "dropped")}
    assert answer["dropped"] == answer["without"] != answer["with"]


def test_a_reply_may_be_a_picture_that_later_turns_speak_about(server: ComfyServer, talking: Graph) -> None:
    history = chat(talking, "drawn", "Draw a red circle.", draw=True)
    talking["save"] = {"class_type": "SaveImage", "inputs": {"images": ["drawn", 2], "filename_prefix": "reply"}}
    chat(talking, "next", "What is it?", history=history)
    talking["nothing"] = {"class_type": "SaveImage", "inputs": {"images": ["next", 2], "filename_prefix": "none"}}
    run = server.run(talking)
    assert run.end == "execution_success", run.error
    assert len(server.pictures(run, "save")) == 1
    assert "nothing" not in run.outputs
    assert turns(run, "next")[:2] == [("user", "Draw a red circle.", 0), ("assistant", "", 1)]
    for number in ("drawn", "next"):
        shown = run.outputs[number]["janus_turns"][1]["image"]
        assert server.get(f"/view?{urlencode(shown)}").headers["Content-Type"].startswith("image/")
    talking["drawn"]["inputs"]["seed"] = 1
    assert turns(server.run(talking), "next")[-1] != turns(run, "next")[-1]


def test_too_long_a_conversation_says_what_to_drop(server: ComfyServer, talking: Graph) -> None:
    history = chat(talking, "long", "word " * 100)
    chat(talking, "next", "And?")
    alone, limit = server.run(talking).outputs["next"]["janus_context"]
    chat(talking, "next", "And?", history=history, max_tokens=limit - alone)
    run = server.run(talking)
    assert run.end == "execution_error"
    assert "drop turn 1 (set drop_turns to 1)" in run.error
    talking["next"]["inputs"]["drop_turns"] = 1
    assert server.run(talking).end == "execution_success"


def test_an_empty_message_is_an_error(server: ComfyServer, talking: Graph) -> None:
    chat(talking, "silent", "  ")
    assert "message is empty" in server.run(talking).error


def test_without_previews_no_frame_is_sent(server: ComfyServer, drawing: Graph) -> None:
    """The server was started with ComfyUI's default, --preview-method none."""
    run = server.run(change(drawing, "JanusTextToImage", seed=123))
    assert run.end == "execution_success"
    assert run.previews == 0
