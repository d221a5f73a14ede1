"""Janus Check, Janus Pick Best and Janus Draw Best in a real server: the core's scores, its order, and what is shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import PACK, ComfyServer, Graph, Run

import janus_core
from janus_core.drawing_best import draw_best
from janus_core.judging import best_first, chance_of_yes, matches

PROMPT, QUESTION = "a red circle", "Is there a red circle?"
SETTINGS = {"seed": 4, "cfg": 5.0, "temperature": 1.0}


@pytest.fixture(scope="module")
def janus() -> janus_core.Janus:
    return janus_core.load(PACK / "tests" / "data" / "tiny_deepseek")


def graph(**nodes: dict[str, Any]) -> Graph:
    """Three pictures drawn by the tiny model, "2", and more nodes."""
    draw = {"janus": ["1", 0], "prompt": PROMPT, "batch_size": 3, "top_k": 0, "top_p": 1.0}
    return {
        "1": {"class_type": "JanusLoader", "inputs": {"checkpoint": "tiny", "dtype": "fp32"}},
        "2": {"class_type": "JanusTextToImage", "inputs": draw | SETTINGS},
    } | nodes


def node(class_type: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": {"janus": ["1", 0], "prompt": PROMPT} | inputs}


def shown(value: list[Any]) -> dict[str, Any]:
    return {"class_type": "PreviewAny", "inputs": {"source": value}}


def ran(server: ComfyServer, what: Graph) -> Run:
    run = server.run(what)
    assert run.end == "execution_success", run.error
    return run


def test_check_says_what_the_core_says_about_each_picture(server: ComfyServer, janus: janus_core.Janus) -> None:
    pictures = janus.decode(janus.generate(PROMPT, 3, seed=4))
    for kind, expected in (
        ("description", matches(janus, pictures, PROMPT)),
        ("question", chance_of_yes(janus, pictures, QUESTION)),
    ):
        text = PROMPT if kind == "description" else QUESTION
        what = graph(
            check=node("JanusCheck", image=["2", 0], prompt=text, kind=kind),
            yes=shown(["check", 0]),
            chance=shown(["check", 1]),
        )
        run = ran(server, what)
        assert [float(text) for text in run.outputs["chance"]["text"]] == pytest.approx(expected.tolist(), abs=1e-3)
        assert run.outputs["yes"]["text"] == [str(chance > 0.5) for chance in expected.tolist()]
        answers = [f"{'yes' if chance > 0.5 else 'no'}, {chance:.2f}" for chance in expected.tolist()]
        assert run.outputs["check"]["text"] == answers


def test_pick_best_keeps_pictures_and_tokens_in_the_order_of_their_scores(
    server: ComfyServer, janus: janus_core.Janus
) -> None:
    tokens = janus.generate(PROMPT, 3, seed=4)
    pictures = janus.decode(tokens)
    scores = matches(janus, pictures, PROMPT)
    order = best_first(scores, 3)
    what = graph(
        pick=node("JanusPickBest", image=["2", 0], tokens=["2", 1], keep=2),
        decode={"class_type": "JanusVQDecode", "inputs": {"janus": ["1", 0], "tokens": ["pick", 1]}},
        picked={"class_type": "SaveImage", "inputs": {"images": ["pick", 0], "filename_prefix": "picked"}},
        again={"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "again"}},
        scores=shown(["pick", 2]),
    )
    run = ran(server, what)
    expected = pictures[order[:2]].numpy() * 255
    for saved in ("picked", "again"):
        found = np.stack([np.asarray(picture) for picture in server.pictures(run, saved)])
        assert np.abs(found - expected).max() <= 1
    assert [float(text) for text in run.outputs["scores"]["text"]] == pytest.approx(
        scores[order[:2]].tolist(), abs=1e-3
    )
    notes = [picture["note"] for picture in run.outputs["pick"]["janus_pictures"]]
    assert notes == [f"{scores[i]:.2f}" + ", left out" * (place == 2) for place, i in enumerate(order)]


def test_draw_best_draws_what_the_core_does_and_shows_every_candidate_with_its_seed(
    server: ComfyServer, janus: janus_core.Janus
) -> None:
    best = draw_best(janus, PROMPT, seed=4, candidates=4, tries=1, cfg_weight=5.0, temperature=1.0)
    what = graph(
        best=node("JanusDrawBest", candidates=4, tries=1, **SETTINGS),
        saved={"class_type": "SaveImage", "inputs": {"images": ["best", 0], "filename_prefix": "best"}},
        score=shown(["best", 2]),
    )
    run = ran(server, what)
    (found,) = server.pictures(run, "saved")
    assert np.abs(np.asarray(found) - best.picture[0].numpy() * 255).max() <= 1
    assert float(run.outputs["score"]["text"][0]) == pytest.approx(best.score, abs=1e-3)
    pictures = run.outputs["best"]["janus_pictures"]
    assert sorted(picture["seed"] for picture in pictures) == ["4", "5", "6", "7"]
    assert [picture["note"].endswith("dropped") for picture in pictures] == [False, True, True, True]
    own = int(pictures[0]["seed"])
    assert torch.equal(janus.generate(PROMPT, seed=own).ids, best.tokens.ids)


def test_tokens_of_other_pictures_are_refused_in_a_sentence(server: ComfyServer) -> None:
    part = {"tokens": ["2", 1], "index": 0, "length": 2}
    what = graph(
        two={"class_type": "JanusPickTokens", "inputs": part},
        pick=node("JanusPickBest", image=["2", 0], tokens=["two", 0], keep=1),
        seen={"class_type": "PreviewImage", "inputs": {"images": ["pick", 0]}},
    )
    assert "3 pictures and tokens of 2" in server.run(what).error
