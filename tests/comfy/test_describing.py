"""Janus Describe Image in a real server: pictures of every kind, one answer for each, the same as the core's."""

import asyncio
import json

import aiohttp
import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, node_of
from PIL import Image

import janus_core

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load(PACK / "tests" / "data" / "tiny_deepseek")


def floats(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def answers(server: ComfyServer, graph: Graph) -> list[str]:
    """The answers, as the node's own text and as what it hands on."""
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    text = run.outputs[node_of(graph, "JanusDescribeImage")]["text"]
    assert run.outputs[node_of(graph, "PreviewAny")]["text"] == text
    return text


def ask(graph: Graph, image: list, **inputs: object) -> Graph:
    node = graph[node_of(graph, "JanusDescribeImage")]
    node["inputs"] |= {"image": image, "question": QUESTION, **inputs}
    return graph


def load(graph: Graph, number: str, name: str) -> list:
    graph[number] = {"class_type": "LoadImage", "inputs": {"image": name}}
    return [number, 0]


@pytest.mark.parametrize("name", ["example.png", "wide.jpg", "tall.png"])
def test_answers_about_pictures_of_any_size_as_the_core_does(
    server: ComfyServer, describing: Graph, janus: janus_core.Janus, name: str
) -> None:
    ask(describing, load(describing, "photo", name))
    picture = floats(Image.open(server.base / "input" / name).convert("RGB"))
    assert answers(server, describing) == [janus.answer(QUESTION, [picture], max_new_tokens=12)]


def test_a_batch_gives_one_answer_a_picture_in_order(
    server: ComfyServer, describing: Graph, janus: janus_core.Janus
) -> None:
    first, second, third = (load(describing, f"photo {i}", f"batch_{i}.png") for i in range(3))
    describing["two"] = {"class_type": "ImageBatch", "inputs": {"image1": first, "image2": second}}
    describing["three"] = {"class_type": "ImageBatch", "inputs": {"image1": ["two", 0], "image2": third}}
    ask(describing, ["three", 0], temperature=1.5, seed=2**64 - 2)
    paths = [server.base / "input" / f"batch_{i}.png" for i in range(3)]
    expected = [
        janus.answer(
            QUESTION, [floats(Image.open(path))], max_new_tokens=12, temperature=1.5, seed=(2**64 - 2 + i) % 2**64
        )
        for i, path in enumerate(paths)
    ]
    assert len(set(expected)) == 3
    assert answers(server, describing) == expected


def test_see_through_pictures_are_seen_over_white(
    server: ComfyServer, describing: Graph, janus: janus_core.Janus
) -> None:
    image = load(describing, "photo", "see_through.png")
    describing["join"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": image, "alpha": ["photo", 1]}}
    ask(describing, ["join", 0])
    picture = floats(Image.open(server.base / "input" / "see_through.png"))
    over_white = picture[..., :3] * picture[..., 3:] + (1 - picture[..., 3:])
    (expected,) = (janus.answer(QUESTION, [over_white], max_new_tokens=12),)
    assert expected != janus.answer(QUESTION, [picture[..., :3]], max_new_tokens=12)
    assert answers(server, describing) == [expected]


def test_progress_runs_on_over_all_pictures_of_a_batch(server: ComfyServer, describing: Graph) -> None:
    first, second = (load(describing, f"photo {i}", f"batch_{i}.png") for i in range(2))
    describing["two"] = {"class_type": "ImageBatch", "inputs": {"image1": first, "image2": second}}
    ask(describing, ["two", 0], max_tokens=5)
    progress = server.run(describing).progress(node_of(describing, "JanusDescribeImage"))
    assert progress == sorted(set(progress)) and progress[-1] == (10, 10)
    assert any(step <= 5 for step, _ in progress) and {total for _, total in progress} == {10}


def test_the_temperature_makes_answers_change_with_the_seed(server: ComfyServer, describing: Graph) -> None:
    image = load(describing, "photo", "example.png")
    sure = [answers(server, ask(describing, image, seed=seed))[0] for seed in (1, 2)]
    free = [answers(server, ask(describing, image, seed=seed, temperature=2.0))[0] for seed in (1, 2, 1)]
    assert sure[0] == sure[1]
    assert free[0] != free[1]
    assert free[0] == free[2]


def test_an_interrupt_stops_an_answer(server: ComfyServer, describing: Graph) -> None:
    ask(describing, load(describing, "photo", "example.png"), max_tokens=800)
    number = node_of(describing, "JanusDescribeImage")
    run = server.run(describing, lambda message: message["type"] == "progress" and server.post("/interrupt"))
    assert run.end == "execution_interrupted"
    assert 0 < run.progress(number)[-1][0] < 800
    assert answers(server, ask(describing, ["photo", 0], max_tokens=4))


def test_the_words_of_a_script_that_shows_none_reach_no_open_canvas(server: ComfyServer, describing: Graph) -> None:
    async def overheard() -> list[str]:
        async with aiohttp.ClientSession(server.address) as session, session.ws_connect("/ws?clientId=onlooker") as ws:
            async with session.post("/prompt", json={"prompt": describing}) as response:
                prompt_id = (await response.json())["prompt_id"]
            heard = []
            while not (history := server.get(f"/history/{prompt_id}").json()):
                await asyncio.sleep(0.02)
            assert history[prompt_id]["status"]["status_str"] == "success"
            while "end" not in heard:
                try:
                    frame = await ws.receive(timeout=0.5)
                    heard.append(json.loads(frame.data)["type"] if frame.type is aiohttp.WSMsgType.TEXT else "picture")
                except asyncio.TimeoutError:
                    heard.append("end")
            return heard

    server.forget()
    heard = asyncio.run(overheard())
    assert "status" in heard and "janus.output" not in heard


def test_frames_of_a_video_get_one_answer_about_what_happens(
    server: ComfyServer, describing: Graph, janus: janus_core.Janus
) -> None:
    first, second, third = (load(describing, f"photo {i}", f"batch_{i}.png") for i in range(3))
    describing["two"] = {"class_type": "ImageBatch", "inputs": {"image1": first, "image2": second}}
    describing["three"] = {"class_type": "ImageBatch", "inputs": {"image1": ["two", 0], "image2": third}}
    pictures = [floats(Image.open(server.base / "input" / f"batch_{i}.png")) for i in range(3)]
    for frames, seen in ((2, [0, 2]), (1000, [0, 1, 2])):
        ask(describing, ["three", 0], frames=frames)
        expected = janus.answer(QUESTION, [pictures[i] for i in seen], max_new_tokens=12)
        assert answers(server, describing) == [expected]
