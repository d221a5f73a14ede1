"""Every shipped workflow: its two files agree, ComfyUI offers it as a template, and it runs."""

import json
from io import BytesIO
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from comfy_server import PACK, ComfyServer, Graph, Run, node_of, shipped
from PIL import Image
from sample_files import SMALL_DIFFUSION

NAMES = sorted(path.stem for path in (PACK / "workflows" / "api").glob("*.json"))
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NO_APP = {"tokens_decode"}  # shows the same picture twice, which only its canvas explains
ON_CANVAS_ONLY = {"MarkdownNote"}
Box = tuple[float, float, float, float]
TOKENS = 36  # of the embedded model's 96 x 96 pictures


def template(name: str) -> dict[str, Any]:
    return json.loads((PACK / "workflows" / f"{name}.json").read_text())


def as_api(canvas: dict[str, Any], object_info: dict[str, Any]) -> Graph:
    """What the frontend would queue for a canvas: links and widgets by name, in the order the server lists inputs."""
    links = {link[0]: [str(link[1]), link[2]] for link in canvas["links"]}
    graph = {}
    for node in canvas["nodes"]:
        if node["type"] in ON_CANVAS_ONLY:
            continue
        linked = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        values = iter(node["widgets_values"])
        info, inputs = object_info[node["type"]], {}
        for group in ("required", "optional"):
            for name in info["input_order"].get(group, []):
                kind, options = (info["input"][group][name] + [{}])[:2]
                if name not in linked and isinstance(kind, str) and kind not in WIDGETS:
                    continue  # an optional socket without a link
                inputs[name] = linked.pop(name) if name in linked else next(values)
                if options.get("control_after_generate", name == "seed") or options.get("image_upload"):
                    next(values)  # a widget that only the canvas knows
        assert not linked
        assert list(values) == []
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def test_there_is_a_template_for_each_workflow(server: ComfyServer) -> None:
    assert set(NAMES) == {
        "text_to_image", "describe_image", "draw_then_describe", "draw_and_upscale", "tokens_decode",
        "chat", "repaint_photo", "variations", "extend", "refine_with_diffusion", "vary_a_diffusion_picture",
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
    assert apart([(*node["pos"], *node["size"]) for node in canvas["nodes"]])


def apart(boxes: list[Box]) -> bool:
    """Whether no two of these (x, y, width, height) overlap."""
    return not any(
        x < x2 + w2 and x2 < x + w and y < y2 + h2 and y2 < y + h
        for (x, y, w, h), (x2, y2, w2, h2) in combinations(boxes, 2)
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_app_has_inputs_and_outputs_that_its_nodes_have(server: ComfyServer, name: str) -> None:
    canvas = template(name)
    form = canvas["extra"].get("linearData")
    assert (form is None) == (name in NO_APP)
    if form:
        nodes, info = {str(node["id"]): node for node in canvas["nodes"]}, server.get("/object_info").json()
        for number, widget in form["inputs"]:
            node = info[nodes[number]["type"]]
            kind = node["input"]["required"][widget][0]
            assert isinstance(kind, list) or kind in WIDGETS
            assert widget not in [slot["name"] for slot in nodes[number]["inputs"] if slot["link"] is not None]
        assert form["outputs"]
        assert all(info[nodes[number]["type"]]["output_node"] for number in form["outputs"])


@pytest.mark.parametrize("name", NAMES)
def test_every_node_stands_in_a_numbered_group_beside_a_note(name: str) -> None:
    canvas = template(name)
    groups = sorted(canvas["groups"], key=lambda group: group["title"])
    assert [group["title"].split(" · ")[0] for group in groups] == [str(i + 1) for i in range(len(groups))]
    assert [group["bounding"][:1] for group in groups] == sorted(group["bounding"][:1] for group in groups)
    notes = [node for node in canvas["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1
    assert "Janus-Pro" in notes[0]["widgets_values"][0]
    title = 30
    tops = [(x, y - title, w, h + title) for x, y, w, h in ((*n["pos"], *n["size"]) for n in notes)]
    assert apart([tuple(group["bounding"]) for group in groups] + tops)
    for node in canvas["nodes"]:
        (x, y), (w, h) = node["pos"], node["size"]
        inside = [
            group
            for group in groups
            for left, top, width, height in [group["bounding"]]
            if left <= x and x + w <= left + width and top <= y - title and y + h <= top + height
        ]
        assert len(inside) == (node["type"] not in ON_CANVAS_ONLY)


@pytest.mark.parametrize("name", NAMES)
def test_comfyui_serves_a_square_thumbnail_with_room_for_a_badge(server: ComfyServer, name: str) -> None:
    answer = server.get(f"/api/workflow_templates/janus-nodes/{name}.jpg")
    with Image.open(BytesIO(answer.content)) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.width == thumbnail.height >= 256
        badge = thumbnail.crop((0, 0, thumbnail.width * 2 // 5, thumbnail.height // 8))
        assert np.asarray(badge).std(axis=(0, 1)).max() < 2  # free for the badge that newer frontends lay there


def test_comfyui_offers_the_blueprint_with_nodes_that_it_has(server: ComfyServer) -> None:
    offered = server.get("/global_subgraphs").json()
    (number,) = (n for n, entry in offered.items() if entry["info"]["node_pack"] == "custom_nodes.janus-nodes")
    assert offered[number]["name"] == "Janus draw and upscale"
    blueprint = json.loads(server.get(f"/global_subgraphs/{number}").json()["data"])
    (inner,) = blueprint["definitions"]["subgraphs"]
    assert [node["type"] for node in blueprint["nodes"]] == [inner["id"]]
    assert {node["type"] for node in inner["nodes"]} <= server.get("/object_info").json().keys()
    assert inner["category"] == "Janus"
    assert "deepseek" in blueprint["extra"]["BlueprintSearchAliases"]


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
    for node in graph.values():
        node["inputs"] |= SMALL_DIFFUSION.get(node["class_type"], {})
    if name == "repaint_photo":
        graph[node_of(graph, "LoadImage")]["inputs"]["image"] = "masked.png"  # as if its user had painted
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    kinds = {node["class_type"] for node in graph.values()}
    if "JanusTextToImage" in kinds:
        drawn = steps(run, graph, "JanusTextToImage")
        assert drawn == sorted(set(drawn)) and drawn[-1] == TOKENS
        side = 192 if "ImageScaleBy" in kinds else 64 if "KSampler" in kinds else 96
        picture = picture_of(server, graph, run, "SaveImage" if "SaveImage" in kinds else "PreviewImage")
        assert picture.shape == (side, side, 3)
        assert picture.std() > 1  # something is drawn
    if "JanusVariations" in kinds:
        assert steps(run, graph, "JanusVariations")[-1] == TOKENS
        assert picture_of(server, graph, run).shape == (96, 96, 3)
    if name == "repaint_photo":
        photo = np.asarray(Image.open(server.base / "input" / "masked.png").convert("RGB"))
        changed = (picture_of(server, graph, run) != photo).any(axis=-1)
        assert changed[100:150, 140:200].mean() > 0.9
        assert not changed[:36].any() and not changed[-36:].any()
    if "JanusDescribeImage" in kinds:
        text = run.outputs[node_of(graph, "JanusDescribeImage")]["text"]
        assert len(text) == 1
        assert text[0]
        assert run.outputs[node_of(graph, "PreviewAny")]["text"] == text
        done = steps(run, graph, "JanusDescribeImage")
        assert done and done == sorted(set(done))
    if "JanusChat" in kinds:
        first, last = (run.outputs[number]["janus_turns"] for number in ("4", "5"))
        assert [turn["role"] for turn in last] == ["user", "assistant"] * 2
        assert last[:2] == first
        assert all(turn["content"] for turn in last)
    if "JanusVQDecode" in kinds:
        before, after = picture_of(server, graph, run, "PreviewImage"), picture_of(server, graph, run)
        assert after.shape == (96, 96, 3)
        if "JanusVQEncode" in kinds:
            assert 0 < np.abs(before.astype(int) - after).mean() < 64  # of a photograph the miniature keeps little
        else:
            assert np.array_equal(after, before)
