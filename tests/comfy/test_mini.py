"""The embedded default draws and sees through the real server what its card says it can."""

from __future__ import annotations

import re

import numpy as np
import pytest
from comfy_server import PACK, ComfyServer, Graph, node_of, shipped

from janus_core.mini.eval_prompts import CATEGORIES, all_prompts
from janus_core.mini.judge import follows
from janus_core.mini.world import BACKGROUNDS, COLOURS, SHAPES

CARD = PACK / "janus_core" / "assets" / "janus-mini" / "README.md"
PICTURES = 4


def card_says(row: str) -> float:
    found = re.search(rf"^\| {row} \| (0\.\d+|1\.00) \|", CARD.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, row
    return float(found[1])


def drawing(prompt: str, batch: int, seed: int = 0) -> Graph:
    graph = shipped("draw_then_describe")
    graph[node_of(graph, "JanusTextToImage")]["inputs"] |= {"prompt": prompt, "batch_size": batch, "seed": seed}
    return graph


def test_twenty_four_prompts_are_followed_as_often_as_the_card_says(server: ComfyServer) -> None:
    """Two seen and two held-out prompts a category; two standard errors, taking a prompt's pictures for one sample.

    The spread is that of the card's share with one miss more, because a share of 1.00 has none."""
    rng, shares = np.random.default_rng(24), []
    for category in CATEGORIES:
        for held_out in (False, True):
            fitting = [p for p in all_prompts() if (p.category, p.held_out) == (category, held_out)]
            for index in rng.choice(len(fitting), 2, replace=False):
                graph = drawing(fitting[index].text, PICTURES)
                run = server.run(graph)
                drawn = server.pictures(run, node_of(graph, "SaveImage"))
                assert len(drawn) == PICTURES
                shares += [np.mean([follows(np.asarray(p.convert("RGB")), fitting[index].request) for p in drawn])]
    assert len(shares) == 24
    expected, with_a_miss = card_says("mean"), card_says("mean") * 24 / 25
    assert np.mean(shares) >= expected - 2 * (with_a_miss * (1 - with_a_miss) / 24) ** 0.5


@pytest.mark.parametrize(("question", "says"), [("what do you see?", "a {} {}"), ("what is the background?", "{2}")])
def test_describing_what_was_drawn_agrees_with_the_prompt(server: ComfyServer, question: str, says: str) -> None:
    right = []
    for index, shape in enumerate(SHAPES):
        for colour in list(COLOURS)[index % 2 :: 2]:
            background = BACKGROUNDS[len(right) % len(BACKGROUNDS)]
            graph = drawing(f"a large {colour} {shape} at the center on a {background} background", 1, len(right))
            describe = node_of(graph, "JanusDescribeImage")
            graph[describe]["inputs"]["question"] = question
            expected = says.format(colour, shape, background).replace("a orange", "an orange")
            right.append(server.run(graph).outputs[describe]["text"] == [expected])
    assert len(right) == 15
    assert np.mean(right) >= 0.8
