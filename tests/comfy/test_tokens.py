"""VQ Encode, and what it shares with VQ Decode: pictures from anywhere to tokens and back, in a real server."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, node_of

import janus_core
from janus_core.pictures import fitted, from_uint8, read_picture

TINY = PACK / "tests" / "data" / "tiny_deepseek"


@pytest.fixture
def encoding(drawing: Graph) -> Graph:
    """A picture to tokens and back with the tiny model: node "seen" shows what was encoded, "kept" what came back."""
    loader = node_of(drawing, "JanusLoader")
    return {
        loader: drawing[loader],
        "photo": {"class_type": "LoadImage", "inputs": {"image": "wide.png"}},
        "encode": {
            "class_type": "JanusVQEncode",
            "inputs": {"janus": [loader, 0], "image": ["photo", 0], "fit": "crop"},
        },
        "decode": {"class_type": "JanusVQDecode", "inputs": {"janus": [loader, 0], "tokens": ["encode", 0]}},
        "seen": {"class_type": "PreviewImage", "inputs": {"images": ["encode", 1]}},
        "kept": {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}},
    }


def change(graph: Graph, number: str, **inputs: Any) -> Graph:
    graph[number]["inputs"] |= inputs
    return graph


def shown(server: ComfyServer, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """The picture as it was encoded, and as it came back."""
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    seen, kept = (np.asarray(server.pictures(run, number)[0]).astype(int) for number in ("seen", "kept"))
    return seen, kept


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_encodes_what_the_core_encodes_at_the_models_own_size(server: ComfyServer, encoding: Graph, how: str) -> None:
    seen, kept = shown(server, change(encoding, "encode", fit=how))
    janus = janus_core.load(TINY)
    photo = from_uint8(np.array(read_picture(server.base / "input" / "wide.png")))[None]
    pictures = fitted(photo, janus.size, how)
    expected = janus.decode(janus.encode(pictures))
    for mine, theirs in ((seen, pictures), (kept, expected)):
        assert np.abs(mine - theirs[0].numpy() * 255).max() <= 1  # ComfyUI truncates to 8 bits


def test_a_picture_that_is_kept_comes_back_in_its_own_size(server: ComfyServer, encoding: Graph) -> None:
    encoding["crop"] = {
        "class_type": "ImageCrop", "inputs": {"image": ["photo", 0], "width": 128, "height": 48, "x": 10, "y": 20}
    }  # fmt: skip
    seen, kept = shown(server, change(encoding, "encode", image=["crop", 0], fit="keep"))
    photo = np.array(read_picture(server.base / "input" / "wide.png")).astype(int)
    assert np.abs(seen - photo[20:68, 10:138]).max() <= 1
    assert kept.shape == seen.shape


def test_see_through_parts_become_white(server: ComfyServer, encoding: Graph) -> None:
    encoding["mask"] = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 333, "height": 217}}
    encoding["join"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["photo", 0], "alpha": ["mask", 0]}}
    seen, _ = shown(server, change(encoding, "encode", image=["join", 0]))
    assert seen.shape[-1] == 3 and seen.min() >= 254


def test_a_picture_that_cannot_be_kept_is_said_with_the_cure(server: ComfyServer, encoding: Graph) -> None:
    error = server.run(change(encoding, "encode", fit="keep")).error
    assert error == "The picture is 333 x 217 pixels: crop or scale both sides to multiples of 16."


def test_comfyui_is_asked_for_the_vq_only(server: ComfyServer, encoding: Graph) -> None:
    server.forget()
    del encoding["decode"], encoding["kept"]
    seen = len(server.log.read_text())
    assert server.run(encoding).end == "execution_success"
    assert re.findall(r"Requested to load (\w+)", server.log.read_text()[seen:]) == ["JanusVQ"]


def test_each_picture_of_a_batch_has_its_tokens(server: ComfyServer, encoding: Graph) -> None:
    encoding["tall"] = {"class_type": "LoadImage", "inputs": {"image": "tall.png"}}
    encoding["both"] = {"class_type": "ImageBatch", "inputs": {"image1": ["photo", 0], "image2": ["tall", 0]}}
    run = server.run(change(encoding, "encode", image=["both", 0]))
    kept = [np.asarray(picture) for picture in server.pictures(run, "kept")]
    assert len(kept) == 2 and not np.array_equal(kept[0], kept[1])
    assert torch.Size(kept[0].shape) == (96, 96, 3)
