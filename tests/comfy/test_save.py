"""Save Janus: one file that Load Janus lists and opens with nothing beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_server import ComfyServer, Graph, node_of
from safetensors import safe_open

Offered = Callable[[], list[str]]


def saving(**inputs: Any) -> Graph:
    return {"1": {"class_type": "JanusSave", "inputs": {"checkpoint": "tiny", "dtype": "fp32"} | inputs}}


def folder(server: ComfyServer) -> Path:
    """The first of the model folders: extra_model_paths.yaml's."""
    return server.base / "elsewhere" / "checkpoints"


def test_a_saved_file_is_listed_and_draws_as_its_source(server: ComfyServer, drawing: Graph, offered: Offered) -> None:
    run = server.run(saving(filename="saved"))
    assert run.end == "execution_success"
    path = Path(run.outputs["1"]["text"][0])
    assert path == folder(server) / "saved.safetensors" and path.name in offered()
    loader, pictures = node_of(drawing, "JanusLoader"), []
    for checkpoint in ("tiny", path.name):
        drawing[loader]["inputs"] |= {"checkpoint": checkpoint, "dtype": "fp32"}
        run = server.run(drawing)
        assert run.end == "execution_success"
        pictures.append(server.pictures(run, node_of(drawing, "SaveImage"))[0].tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("dtype", ["int8", "fp8_e4m3fn"])
def test_a_small_file_draws_too(server: ComfyServer, drawing: Graph, dtype: str) -> None:
    path = Path(server.run(saving(filename=dtype, dtype=dtype)).outputs["1"]["text"][0])
    drawing[node_of(drawing, "JanusLoader")]["inputs"]["checkpoint"] = path.name
    assert server.run(drawing).end == "execution_success"
    with safe_open(path, framework="pt") as file:
        layer = file.get_tensor("language_model.model.layers.0.mlp.up_proj.weight")
    assert layer.dtype == getattr(torch, dtype.replace("fp", "float"))


def test_a_saved_file_is_left_alone_by_the_next_run_and_written_again_when_it_was_deleted(server: ComfyServer) -> None:
    path = Path(server.run(saving(filename="again")).outputs["1"]["text"][0])
    written = path.stat()
    assert server.run(saving(filename="again")).end == "execution_success"
    assert path.stat() == written
    path.unlink()
    assert server.run(saving(filename="again")).end == "execution_success"
    assert path.stat().st_size == written.st_size


def test_a_file_that_is_there_is_not_overwritten(server: ComfyServer, offered: Offered) -> None:
    path = folder(server) / "mine.safetensors"
    path.write_bytes(b"mine")
    run = server.run(saving(filename="mine"))
    assert run.end == "execution_error"
    assert "is there already" in run.messages[-1]["data"]["exception_message"]
    assert path.read_bytes() == b"mine" and path.name not in offered()


@pytest.mark.parametrize("name", ["../outside", "sub/file", "/tmp/file", "..", ".hidden", "", "a\\b", "C:file"])  # noqa: S108
def test_a_name_that_could_lead_elsewhere_is_refused_before_the_run(server: ComfyServer, name: str) -> None:
    before = set(server.base.rglob("*.safetensors"))
    run = server.run(saving(filename=name))
    assert run.end == "rejected" and "not a plain file name" in str(run.messages)
    assert set(server.base.rglob("*.safetensors")) == before


@pytest.mark.parametrize(("name", "expected"), [("x" * 244, "takes 256 bytes"), ("\ud800", "not a plain file name")])
def test_a_name_that_no_file_can_have_is_refused_before_the_run(server: ComfyServer, name: str, expected: str) -> None:
    run = server.run(saving(filename=name))
    assert run.end == "rejected" and expected in str(run.messages)


def test_a_checkpoint_that_is_not_there_is_refused(server: ComfyServer) -> None:
    assert server.run(saving(checkpoint="nowhere", filename="new")).end == "rejected"
    assert not (folder(server) / "new.safetensors").exists()
