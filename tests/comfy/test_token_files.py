"""Save Tokens and Load Tokens, Pick Tokens and Join Tokens, in a real server."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comfy_server import PACK, ComfyServer, Graph, node_of

from janus_core.tokens import read_tokens, write_tokens

TINY = PACK / "tests" / "data" / "tiny_deepseek"


@pytest.fixture
def saving(drawing: Graph) -> Graph:
    """Three pictures of the tiny model, whose tokens node "save" saves."""
    draw = node_of(drawing, "JanusTextToImage")
    drawing[draw]["inputs"] |= {"seed": 21, "batch_size": 3}
    drawing["save"] = {"class_type": "JanusSaveTokens", "inputs": {"tokens": [draw, 1], "filename_prefix": "kept"}}
    return drawing


def saved(server: ComfyServer, graph: Graph) -> Path:
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    return Path(run.outputs["save"]["text"][0])


def decoding(graph: Graph, tokens: list[Any], **nodes: Any) -> Graph:
    """A graph of the same loader that decodes `tokens` and shows them, with these nodes."""
    loader = node_of(graph, "JanusLoader")
    return {
        loader: graph[loader],
        "decode": {"class_type": "JanusVQDecode", "inputs": {"janus": [loader, 0], "tokens": tokens}},
        "show": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    } | nodes


def loading(graph: Graph, file: str) -> Graph:
    return decoding(graph, ["load", 0], load={"class_type": "JanusLoadTokens", "inputs": {"file": file}})


def pictures(server: ComfyServer, graph: Graph, number: str = "show") -> list[np.ndarray]:
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    return [np.asarray(picture) for picture in server.pictures(run, number)]


def offered(server: ComfyServer) -> list[str]:
    node = server.get("/object_info/JanusLoadTokens").json()["JanusLoadTokens"]
    return node["input"]["required"]["file"][1]["options"]


@pytest.mark.parametrize("prefix", ["kept", "some/folders/kept"])
def test_saved_tokens_are_listed_and_give_the_same_pictures(server: ComfyServer, saving: Graph, prefix: str) -> None:
    saving["save"]["inputs"]["filename_prefix"] = prefix
    file = saved(server, saving)
    name = f"{file.relative_to(server.base / 'output').as_posix()} [output]"
    assert name == f"{prefix}_00001_.tokens.safetensors [output]" and name in offered(server)
    drawn = pictures(server, saving, node_of(saving, "SaveImage"))
    loaded = pictures(server, loading(saving, name))
    assert len(loaded) == 3
    assert all(np.array_equal(one, two) for one, two in zip(loaded, drawn, strict=True))


def test_each_run_saves_a_file_with_the_next_number(server: ComfyServer, saving: Graph) -> None:
    saving["save"]["inputs"]["filename_prefix"] = "counted"
    names = []
    for seed in (1, 2):
        saving[node_of(saving, "JanusTextToImage")]["inputs"]["seed"] = seed
        names.append(saved(server, saving).name)
    assert names == ["counted_00001_.tokens.safetensors", "counted_00002_.tokens.safetensors"]


def test_a_file_in_the_input_folder_is_read_again_once_it_is_replaced(server: ComfyServer, saving: Graph) -> None:
    tokens = read_tokens(saved(server, saving))
    file = server.base / "input" / "mine.tokens.safetensors"
    write_tokens(tokens, file)
    graph = loading(saving, file.name)
    assert len(pictures(server, graph)) == 3
    assert server.run(graph).executed() == set()
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000_000))
    assert "load" in server.run(graph).executed()


@pytest.mark.parametrize(
    "prefix", ["../out", "a/../../out", "/etc/out", "", "a/", ".hidden", "C:out", "a\\..\\b", "\0"]
)
def test_a_prefix_that_could_lead_elsewhere_is_refused_before_the_run(
    server: ComfyServer, saving: Graph, prefix: str
) -> None:
    before = set(server.base.parent.rglob("*.tokens.safetensors"))
    del saving[node_of(saving, "SaveImage")]  # it would run, and leave only this one out
    saving["save"]["inputs"]["filename_prefix"] = prefix
    run = server.run(saving)
    assert run.end == "rejected" and "is no place in ComfyUI's output folder" in run.error
    saving["text"] = {"class_type": "Anything", "inputs": {"value": prefix}}
    saving["save"]["inputs"]["filename_prefix"] = ["text", 0]
    run = server.run(saving)
    assert run.end == "execution_error" and "is no place in ComfyUI's output folder" in run.error
    assert set(server.base.parent.rglob("*.tokens.safetensors")) == before


@pytest.mark.parametrize("prefix", ["x" * 300, "x" * 300 + "/a", "file.txt/a"])
def test_a_prefix_that_the_disk_refuses_is_said(server: ComfyServer, saving: Graph, prefix: str) -> None:
    (server.base / "output" / "file.txt").write_text("a file, not a folder")
    saving["save"]["inputs"]["filename_prefix"] = prefix
    run = server.run(saving)
    assert run.end == "execution_error"
    assert "could not be written" in run.error or "Nothing can be saved as" in run.error
    assert "\n" not in run.error


@pytest.mark.parametrize(
    "name", ["gone", "", "../secret.tokens.safetensors", "a/../x", "/etc/passwd", "link.tokens.safetensors"]
)
def test_only_files_inside_the_folders_can_be_loaded(server: ComfyServer, saving: Graph, name: str) -> None:
    secret = server.base / "secret.tokens.safetensors"
    write_tokens(read_tokens(saved(server, saving)), secret)
    link = server.base / "input" / "link.tokens.safetensors"
    if not link.is_symlink():
        link.symlink_to(secret)
    assert link.name not in offered(server)
    run = server.run(loading(saving, name))
    assert run.end == "rejected" and f"There is no file of tokens {name!r} here" in run.error
    graph = loading(saving, name)
    graph["text"] = {"class_type": "Anything", "inputs": {"value": name}}
    graph["load"]["inputs"]["file"] = ["text", 0]
    run = server.run(graph)
    assert run.end == "execution_error" and run.error.startswith(f"There is no file of tokens {name!r} here")


@pytest.mark.parametrize("content", [b"", b"not tokens", (TINY / "model.safetensors").read_bytes()])
def test_a_file_of_something_else_is_said_in_one_sentence(server: ComfyServer, saving: Graph, content: bytes) -> None:
    file = server.base / "input" / "other.tokens.safetensors"
    file.write_bytes(content)
    run = server.run(loading(saving, file.name))
    assert run.end == "execution_error"
    assert file.name in run.error and "\n" not in run.error
    assert "not a whole safetensors file" in run.error or "holds no picture tokens" in run.error


def test_loaded_tokens_of_another_model_are_refused(server: ComfyServer, saving: Graph) -> None:
    name = f"{saved(server, saving).name} [output]"
    graph = loading(saving, name)
    graph[node_of(graph, "JanusLoader")]["inputs"]["checkpoint"] = "janus-mini (embedded, draws shapes)"
    assert "another model's codebook" in server.run(graph).error


def picking(tokens: list[Any], index: int, length: int = 1) -> dict[str, Any]:
    return {"class_type": "JanusPickTokens", "inputs": {"tokens": tokens, "index": index, "length": length}}


def test_picked_and_joined_tokens_give_those_pictures_in_that_order(server: ComfyServer, saving: Graph) -> None:
    draw = node_of(saving, "JanusTextToImage")
    drawn = pictures(server, saving, node_of(saving, "SaveImage"))
    join = {"class_type": "JanusJoinTokens", "inputs": {"tokens_1": ["last", 0], "tokens_2": ["first", 0]}}
    graph = decoding(saving, ["join", 0], first=picking([draw, 1], 0, 2), last=picking([draw, 1], 2, 9), join=join)
    found = pictures(server, saving | graph)
    assert all(np.array_equal(one, two) for one, two in zip(found, [drawn[2], *drawn[:2]], strict=True))


def test_an_index_beyond_the_batch_is_said(server: ComfyServer, saving: Graph) -> None:
    draw = node_of(saving, "JanusTextToImage")
    run = server.run(saving | decoding(saving, ["pick", 0], pick=picking([draw, 1], 3)))
    assert run.error == "The index is 3 and the tokens are of 3 pictures: give 0 to 2."


def test_tokens_of_two_sizes_are_not_joined(server: ComfyServer, saving: Graph) -> None:
    draw, loader = node_of(saving, "JanusTextToImage"), node_of(saving, "JanusLoader")
    small = {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 48, "batch_size": 1, "color": 0}}
    encode = {"class_type": "JanusVQEncode", "inputs": {"janus": [loader, 0], "image": ["small", 0], "fit": "keep"}}
    join = {"class_type": "JanusJoinTokens", "inputs": {"tokens_1": [draw, 1], "tokens_2": ["encode", 0]}}
    run = server.run(saving | decoding(saving, ["join", 0], small=small, encode=encode, join=join))
    assert run.error.startswith("These tokens are of pictures of two sizes, 6 x 6 and 2 x 3 tokens")
