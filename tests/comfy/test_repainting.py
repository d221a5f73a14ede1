"""Janus Repaint and Janus Variations in a real server, from a drawn picture and from a photograph of another size."""

from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import ComfyServer, Graph
from PIL import Image

import janus_core
from janus_core import code_mask, repaint, vary

PROMPT = "a red circle in the top left and a blue square in the bottom right"
SETTINGS = {"seed": 4, "cfg": 5.0, "temperature": 1.0}


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load()


def graph(node: dict[str, Any], *, tokens: tuple[str, int] = ("2", 0), size: int = 96) -> Graph:
    """A drawn or encoded picture -> `node`, "5" -> SaveImage. The mask covers the lower right of `size` pixels."""
    model = {
        "class_type": "JanusLoader",
        "inputs": {"checkpoint": "janus-mini (embedded, draws shapes)", "dtype": "fp32"},
    }
    draw = {"janus": ["1", 0], "prompt": "a red circle in the top left", "batch_size": 1, "top_k": 0, "top_p": 1.0}
    part = {"value": 1.0, "width": size // 3, "height": size // 3}
    return {
        "1": model,
        "2": {"class_type": "JanusTextToImage", "inputs": draw | SETTINGS},
        "3": {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": size, "height": size}},
        "4": {"class_type": "SolidMask", "inputs": part},
        "7": {
            "class_type": "MaskComposite",
            "inputs": {"destination": ["3", 0], "source": ["4", 0], "x": 2 * size // 3, "y": 2 * size // 3}
            | {"operation": "add"},
        },
        "5": node
        | {"inputs": {"janus": ["1", 0], "tokens": list(tokens), "prompt": PROMPT} | SETTINGS | node["inputs"]},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "repainted"}},
    }


def repainting(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "JanusRepaint", "inputs": {"mask": ["7", 0], "candidates": 2, "grow": 0} | inputs}


def picture(server: ComfyServer, what: Graph) -> np.ndarray:
    run = server.run(what)
    assert run.end == "execution_success", run.messages[-1]
    (found,) = server.pictures(run, "6")
    return np.asarray(found)


def test_repaint_and_variations_are_the_cores(server: ComfyServer, janus: janus_core.Janus) -> None:
    drawn = janus.generate("a red circle in the top left", seed=4)
    mask = torch.zeros(1, 96, 96)
    mask[:, 64:, 64:] = 1
    expected = {
        "repaint": repaint(janus, drawn, code_mask(mask, (6, 6)), PROMPT, candidates=2, seed=4),
        "vary": vary(janus, drawn, PROMPT, strength=0.7, seed=4),
    }
    asked = {"repaint": repainting(), "vary": {"class_type": "JanusVariations", "inputs": {"strength": 0.7}}}
    for name, node in asked.items():
        pixels = janus.decode(expected[name])[0].numpy() * 255
        assert np.abs(picture(server, graph(node, tokens=("2", 1))) - pixels).max() <= 1, name


@pytest.mark.parametrize(("grow", "row"), [(0, "000011"), (1, "000111")])
def test_the_mask_that_was_used_goes_to_the_canvas(server: ComfyServer, grow: int, row: str) -> None:
    run = server.run(graph(repainting(grow=grow), tokens=("2", 1)))
    (mask,) = run.outputs["5"]["janus_masks"]
    assert mask == ["000000"] * (4 - grow) + [row] * (2 + grow)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_photograph_is_itself_where_the_mask_does_not_touch_it(server: ComfyServer, fit: str) -> None:
    rng = np.random.default_rng(3)
    photo = rng.integers(0, 256, (400, 600, 3), dtype=np.uint8)
    Image.fromarray(photo).save(server.base / "input" / f"photo_{fit}.png")
    encode = {"janus": ["1", 0], "image": ["8", 0], "fit": fit}
    mask = {"value": 1.0, "width": 600, "height": 400}
    what = graph(repainting(original=["8", 0], fit=fit, edge=8, mask=["11", 0]), tokens=("9", 0)) | {
        "8": {"class_type": "LoadImage", "inputs": {"image": f"photo_{fit}.png"}},
        "9": {"class_type": "JanusVQEncode", "inputs": encode},
        "3": {"class_type": "SolidMask", "inputs": mask | {"value": 0.0}},
        "4": {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 60, "height": 60}},
        "11": {
            "class_type": "MaskComposite",
            "inputs": {"destination": ["3", 0], "source": ["4", 0], "x": 280, "y": 180, "operation": "add"},
        },
    }
    found = picture(server, what)
    assert found.shape == photo.shape
    changed = (found != photo).any(axis=-1)
    assert changed[200:220, 300:320].all()  # the middle of the mask
    assert not changed[:35].any() and not changed[-35:].any() and not changed[:, :130].any()
    assert not changed[:, -130:].any()


def test_tokens_of_another_size_are_refused_in_a_sentence(server: ComfyServer) -> None:
    Image.new("RGB", (80, 96)).save(server.base / "input" / "other_size.png")
    what = graph(repainting(tokens=["8", 0])) | {
        "9": {"class_type": "LoadImage", "inputs": {"image": "other_size.png"}},
        "8": {"class_type": "JanusVQEncode", "inputs": {"janus": ["1", 0], "image": ["9", 0], "fit": "keep"}},
    }
    run = server.run(what)
    assert run.end == "execution_error" and "the model draws 6 x 6" in str(run.messages)
