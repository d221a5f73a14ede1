"""janus-mini, half trained as it is, draws and sees through the real server what its card says it can."""

from __future__ import annotations

import numpy as np
from comfy_server import ComfyServer, node_of, shipped

from janus_core.training.judge import Request, Wanted, follows
from janus_core.training.world import PLACES

MINI = "janus-mini (embedded, draws shapes)"
ASKED = [
    ("red", "circle", "top left"),
    ("blue", "square", "top"),
    ("green", "triangle", "right"),
    ("yellow", "circle", "bottom left"),
    ("purple", "ring", "center"),
    ("orange", "square", "left"),
]


def test_one_object_is_mostly_drawn_as_told(server: ComfyServer) -> None:
    """The card says 0.95 for such prompts at weight 1; at 0.9, 24 pictures stay above 0.6 all but surely."""
    right = []
    for colour, shape, place in ASKED:
        graph = shipped("text_to_image")
        graph[node_of(graph, "JanusLoader")]["inputs"]["checkpoint"] = MINI
        prompt = f"a photo of a {colour} {shape} in the {place}"
        graph[node_of(graph, "JanusTextToImage")]["inputs"] |= {
            "prompt": prompt,
            "batch_size": 4,
            "cfg": 1.0,
            "seed": 0,
        }
        run = server.run(graph)
        request = Request((Wanted(shape, colour, None, PLACES.index(place)),))
        drawn = server.pictures(run, node_of(graph, "SaveImage"))
        right += [follows(np.asarray(picture.convert("RGB")), request) for picture in drawn]
    assert len(right) == 24
    assert np.mean(right) > 0.6


def test_the_background_of_a_drawn_picture_is_told(server: ComfyServer) -> None:
    graph = shipped("draw_then_describe")
    graph[node_of(graph, "JanusLoader")]["inputs"]["checkpoint"] = MINI
    for background in ("white", "black", "striped", "dotted"):
        prompt = f"a red circle in the top left on a {background} background"
        graph[node_of(graph, "JanusTextToImage")]["inputs"] |= {"prompt": prompt, "cfg": 1.0, "seed": 3}
        describe = node_of(graph, "JanusDescribeImage")
        graph[describe]["inputs"]["question"] = "what is the background?"
        run = server.run(graph)
        assert run.outputs[describe]["text"] == [background]
