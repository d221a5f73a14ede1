"""Janus Text Model in a real server, asked by ComfyUI's Generate Text, or where that is missing by a node that calls alike."""

from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, Run
from PIL import Image

import janus_core

QUESTION = "What is in the picture?"
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.3, "seed": 11}
PENALTY = {"presence_penalty": 0.4}


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load(PACK / "tests" / "data" / "tiny_deepseek")


@pytest.fixture(scope="module")
def writer(server: ComfyServer) -> str:
    return "TextGenerate" if server.get("/object_info/TextGenerate").json() else "AsksCLIP"


def asking(writer: str, sampling: dict[str, Any] | None = None, **inputs: Any) -> Graph:
    mode = (
        {"sampling_mode": "on", **{f"sampling_mode.{name}": value for name, value in sampling.items()}}
        if sampling
        else {}
    )
    return {
        "load": {"class_type": "JanusLoader", "inputs": {"checkpoint": "tiny", "dtype": "fp32"}},
        "model": {"class_type": "JanusTextModel", "inputs": {"janus": ["load", 0]}},
        "picture": {"class_type": "LoadImage", "inputs": {"image": "wide.jpg"}},
        "write": {
            "class_type": writer,
            "inputs": {
                "clip": ["model", 0],
                "prompt": QUESTION,
                "max_length": 12,
                "sampling_mode": "off",
                **mode,
                **inputs,
            },
        },
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["write", 0]}},
    }


def picture(server: ComfyServer) -> torch.Tensor:
    rgb = np.asarray(Image.open(server.base / "input" / "wide.jpg").convert("RGB"))
    return torch.from_numpy(rgb.astype(np.float32) / 255)


def written(run: Run) -> str:
    assert run.end == "execution_success", run.error
    return run.outputs["show"]["text"][0]


@pytest.mark.parametrize("sampling", [None, SAMPLING | PENALTY])
def test_it_writes_what_the_core_answers(
    server: ComfyServer, janus: janus_core.Janus, writer: str, sampling: dict[str, Any] | None
) -> None:
    run = server.run(asking(writer, sampling, image=["picture", 0]))
    pictures = [picture(server)]
    expected = janus.answer(QUESTION, pictures, max_new_tokens=12, **(sampling or {}))
    assert written(run) == expected
    assert run.progress("write")[-1] == (12, 12)


def test_without_a_picture_and_with_frames_of_a_video(
    server: ComfyServer, janus: janus_core.Janus, writer: str
) -> None:
    assert written(server.run(asking(writer))) == janus.answer(QUESTION, max_new_tokens=12)
    graph = asking(writer, video=["frames", 0])
    graph["frames"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["picture", 0], "amount": 25}}
    pictures = [picture(server)] * 2
    assert written(server.run(graph)) == janus.answer(QUESTION, pictures, max_new_tokens=12)


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"prompt": " "}, "The question is empty: ask something about the picture."),
        ({"use_default_template": False}, "turn use_default_template on."),
        ({"max_length": 5000}, "but the model holds 1024"),
    ],
)
def test_what_it_cannot_do_is_said_and_the_next_run_is_right(
    server: ComfyServer, writer: str, inputs: dict[str, Any], sentence: str
) -> None:
    assert sentence in server.run(asking(writer, **inputs)).error
    assert written(server.run(asking(writer)))


def test_a_diffusion_models_prompt_is_refused_in_a_sentence(server: ComfyServer, writer: str) -> None:
    graph = asking(writer)
    del graph["write"], graph["show"]
    graph["encode"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 0], "text": "a cat"}}
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["encode", 0]}}
    assert (
        "writes text and has no 'encode_from_tokens_scheduled': connect it to Generate Text" in server.run(graph).error
    )
