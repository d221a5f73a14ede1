"""Every shipped workflow: its two files agree, ComfyUI offers it as a template, and it runs."""

import json
from typing import Any

import numpy as np
import pytest
from comfy_server import PACK, ComfyServer, Graph, Run, node_of, shipped

NAMES = sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))
TOKENS = 36  # of the embedded model's 96 x 96 pictures


def template(name: str) -> dict[str, Any]:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text())


def as_api(canvas: dict[str, Any], object_info: dict[str, Any]) -> Graph:
    """What the frontend would queue for a canvas: links and widgets by name, in the order the server lists inputs."""
    links = {link[0]: [str(link[1]), link[2]] for link in canvas["links"]}
    graph = {}
    for node in canvas["nodes"]:
        linked = {slot["name"]: links[slot["link"]] for slot in node["inputs"]}
        values = iter(node["widgets_values"])
        info, inputs = object_info[node["type"]], {}
        for group in ("required", "optional"):
            for name in info["input_order"].get(group, []):
                options = (info["input"][group][name] + [{}])[1]
                inputs[name] = linked.pop(name) if name in linked else next(values)
                if options.get("control_after_generate") or options.get("image_upload"):
                    next(values)  # a widget that only the canvas knows
        assert not linked
        assert list(values) == []
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def test_there_is_a_template_for_each_workflow(server: ComfyServer) -> None:
    assert set(NAMES) == {
        "text_to_image", "describe_image", "draw_then_describe", "draw_and_upscale", "tokens_decode"
    }  # fmt: skip
    assert sorted(server.get("/api/workflow_templates").json()["janus-nodes"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_canvas_and_api_files_hold_the_same_graph(server: ComfyServer, name: str) -> None:
    canvas = server.get(f"/api/workflow_templates/janus-nodes/{name}.json").json()
    api = {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in shipped(name).items()}
    assert as_api(canvas, server.get("/object_info").json()) == api


@pytest.mark.parametrize("name", NAMES)
def test_canvas_links_meet_their_slots_and_read_left_to_right(name: str) -> None:
    canvas = template(name)
    nodes = {node["id"]: node for node in canvas["nodes"]}
    assert canvas["version"] == 0.4
    assert canvas["last_node_id"] == max(nodes)
    assert canvas["last_link_id"] == max(link[0] for link in canvas["links"])
    for number, start, out_slot, end, in_slot, kind in canvas["links"]:
        output, target = nodes[start]["outputs"][out_slot], nodes[end]["inputs"][in_slot]
        assert number in output["links"]
        assert target["link"] == number
        assert output["type"] == kind
        assert target["type"] in (kind, "*")
        assert nodes[start]["pos"][0] + nodes[start]["size"][0] < nodes[end]["pos"][0]
    boxes = [(*node["pos"], *node["size"]) for node in canvas["nodes"]]
    for i, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[:i]:
            apart = x >= other_x + other_w or other_x >= x + w or y >= other_y + other_h or other_y >= y + h
            assert apart


def picture_of(server: ComfyServer, graph: Graph, run: Run, kind: str = "SaveImage") -> np.ndarray:
    pictures = server.pictures(run, node_of(graph, kind))
    assert len(pictures) == 1
    assert pictures[0].format == "PNG"
    return np.asarray(pictures[0])


def steps(run: Run, graph: Graph, kind: str) -> list[int]:
    return [value for value, _ in run.progress(node_of(graph, kind))]


@pytest.mark.parametrize("name", NAMES)
def test_the_workflow_runs_as_shipped(server: ComfyServer, name: str) -> None:
    server.forget()
    graph = shipped(name)
    run = server.run(graph)
    assert run.end == "execution_success"
    kinds = {node["class_type"] for node in graph.values()}
    if "JanusTextToImage" in kinds:
        assert steps(run, graph, "JanusTextToImage") == list(range(1, TOKENS + 1))
        side = 192 if "ImageScaleBy" in kinds else 96
        picture = picture_of(server, graph, run)
        assert picture.shape == (side, side, 3)
        assert picture.std() > 1  # something is drawn
    if "JanusDescribeImage" in kinds:
        text = run.outputs[node_of(graph, "JanusDescribeImage")]["text"]
        assert len(text) == 1
        assert text[0]
        assert run.outputs[node_of(graph, "PreviewAny")]["text"] == text
        done = steps(run, graph, "JanusDescribeImage")
        assert done == list(range(1, len(done) + 1))
    if "JanusVQDecode" in kinds:
        drawn = picture_of(server, graph, run, "PreviewImage")
        assert np.array_equal(picture_of(server, graph, run), drawn)
