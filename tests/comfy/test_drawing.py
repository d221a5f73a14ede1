"""Janus Text-to-Image and VQ Decode in a real server: seeds, batches, upscaling, interruption, memory."""

import json
import shutil
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, Message, Run, node_of

import janus_core
from janus_core.config import JanusConfig
from janus_core.model.janus import JanusModel
from janus_core.weights.saving import save_weights

TINY = PACK / "tests" / "data" / "tiny_deepseek"
ESRGAN = "doubler.safetensors"


def pictures(server: ComfyServer, graph: Graph, run: Run) -> list[np.ndarray]:
    assert run.end == "execution_success"
    return [np.asarray(picture) for picture in server.pictures(run, node_of(graph, "SaveImage"))]


def change(graph: Graph, kind: str = "JanusTextToImage", **inputs: Any) -> Graph:
    """The graph again, with other inputs in its first node of a kind."""
    number = node_of(graph, kind)
    return graph | {number: graph[number] | {"inputs": graph[number]["inputs"] | inputs}}


def test_draws_what_the_core_draws(server: ComfyServer, drawing: Graph) -> None:
    settings = {"seed": 11, "temperature": 0.9, "top_k": 60, "top_p": 0.95}
    drawn = pictures(server, drawing, server.run(change(drawing, cfg=3.0, batch_size=2, **settings)))
    janus = janus_core.load(TINY)
    prompt = drawing[node_of(drawing, "JanusTextToImage")]["inputs"]["prompt"]
    expected = janus.decode(janus.generate(prompt, count=2, cfg_weight=3.0, **settings)).numpy()
    for mine, theirs in zip(drawn, expected, strict=True):
        assert np.abs(mine - theirs * 255).max() <= 1  # ComfyUI truncates to 8 bits


def test_picture_i_of_a_batch_is_the_single_picture_of_seed_plus_i(server: ComfyServer, drawing: Graph) -> None:
    batch = pictures(server, drawing, server.run(change(drawing, seed=100, batch_size=3)))
    assert len(batch) == 3
    for i, picture in enumerate(batch):
        (single,) = pictures(server, drawing, server.run(change(drawing, seed=100 + i)))
        # Sums in another order may differ in the last bit, and with it one of 256 shades.
        assert np.abs(single.astype(int) - picture).max() <= 1
    assert not np.array_equal(batch[0], batch[1])


def test_jacobi_draws_the_same_picture(server: ComfyServer, drawing: Graph) -> None:
    settings = {"batch_size": 2, "seed": 5, "cfg": 2.0}
    plain = pictures(server, drawing, server.run(change(drawing, **settings)))
    run = server.run(change(drawing, **settings, sampler="jacobi", window=4))
    assert all(np.array_equal(one, two) for one, two in zip(plain, pictures(server, drawing, run), strict=True))
    steps = run.progress(node_of(drawing, "JanusTextToImage"))
    assert steps == sorted(steps) and steps[-1] == (36, 36)


def test_graphs_saved_before_there_was_a_choice_of_samplers_run_on(server: ComfyServer, drawing: Graph) -> None:
    plain = pictures(server, drawing, server.run(change(drawing, seed=77)))
    draw = node_of(drawing, "JanusTextToImage")
    inputs = {key: value for key, value in drawing[draw]["inputs"].items() if key not in ("sampler", "window")}
    older = drawing | {draw: drawing[draw] | {"inputs": inputs | {"seed": 77}}}
    server.forget()
    assert np.array_equal(plain, pictures(server, older, server.run(older)))


def test_upscales_with_a_model_before_saving(server: ComfyServer, drawing: Graph) -> None:
    draw, save = node_of(drawing, "JanusTextToImage"), node_of(drawing, "SaveImage")
    drawing["loader"] = {"class_type": "UpscaleModelLoader", "inputs": {"model_name": ESRGAN}}
    drawing["up"] = {
        "class_type": "ImageUpscaleWithModel", "inputs": {"upscale_model": ["loader", 0], "image": [draw, 0]}
    }  # fmt: skip
    drawing[save]["inputs"]["images"] = ["up", 0]
    (picture,) = pictures(server, drawing, server.run(drawing))
    assert picture.shape == (192, 192, 3)


def test_the_same_picture_after_models_were_unloaded(server: ComfyServer, drawing: Graph) -> None:
    before = pictures(server, drawing, server.run(drawing))
    assert server.run(drawing).executed() == set()
    server.forget()
    again = server.run(drawing)
    assert node_of(drawing, "JanusLoader") in again.executed()
    assert np.array_equal(before, pictures(server, drawing, again))


def test_two_loaders_of_one_file_share_the_model(server: ComfyServer, drawing: Graph) -> None:
    server.forget()
    loader, draw = node_of(drawing, "JanusLoader"), node_of(drawing, "JanusTextToImage")
    drawing["second"] = drawing[loader]
    drawing["decode"] = {"class_type": "JanusVQDecode", "inputs": {"janus": ["second", 0], "tokens": [draw, 1]}}
    drawing["show"] = {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}}
    run = server.run(drawing)
    assert len(pictures(server, drawing, run)) == 1
    assert len({loader, "second"} & run.executed()) == 1


@pytest.fixture(scope="module")
def slow(server: ComfyServer) -> str:
    """A checkpoint of random weights whose steps take longer than a request to the server."""
    folder = server.base / "models" / "janus" / "slow"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    width = 256
    config["language_config"] |= {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 6}
    for part in ("aligner_config", "gen_aligner_config", "gen_head_config"):
        config[part]["params"]["n_embed"] = width
    config["gen_head_config"]["params"]["image_token_embed"] = width
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_weights(JanusModel(JanusConfig.from_dict(config)), folder, torch.float32)
    return "slow"


@pytest.mark.parametrize("sampler", ["sequential", "jacobi"])
def test_an_interrupt_stops_at_once_and_leaves_no_trace(
    server: ComfyServer, drawing: Graph, slow: str, sampler: str
) -> None:
    graph = change(change(drawing, "JanusLoader", checkpoint=slow), batch_size=32, sampler=sampler, window=2)
    times: list[float] = []
    answered: list[float] = []

    def interrupt() -> None:
        server.post("/interrupt")
        answered.append(time.monotonic())

    def watch(message: Message) -> None:
        if message["type"] == "progress":
            times.append(time.monotonic())
            if len(times) == 2:
                threading.Thread(target=interrupt).start()

    stopped = server.run(graph, watch)
    assert stopped.end == "execution_interrupted"
    done = stopped.progress(node_of(graph, "JanusTextToImage"))
    assert len(done) == len(times)
    assert len(times) <= done[-1][0] < 36
    assert sum(when > answered[0] for when in times) <= 1

    after = pictures(server, graph, server.run(graph))
    server.forget()
    fresh = pictures(server, graph, server.run(graph))
    assert np.array_equal(after, fresh)
