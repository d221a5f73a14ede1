"""How the shipped workflows look: boxes in their places, wires in sight, notes that can be read, a picture shown once."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from canvas import Canvas
from comfy_server import PACK
from PIL import Image
from playwright.sync_api import expect

NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
SENTENCE = "A wide meadow lies under a pale morning sky, and a narrow path runs through it to a row of poplars. "
ANSWER = (SENTENCE * 25)[:2000]
TURNS = [
    {"role": ("user", "assistant")[i % 2], "content": SENTENCE * (1 + i % 2 * 2), "pictures": int(i == 0)}
    for i in range(12)
]
SEEDS = itertools.count(700, 2)  # so that no test draws what is in the cache from another
# The boxes, in the graph's units, of a node, its panel, and what the panel shows at first.
BOXES = """([id, nodes2]) => {
    const page = app.canvasEl.getBoundingClientRect()
    const { scale, offset: [left, top] } = app.canvas.ds
    const onGraph = ({ x, y, width, height }) =>
        [(x - page.x) / scale - left, (y - page.y) / scale - top, width / scale, height / scale]
    const box = (element) => onGraph(element.getBoundingClientRect())
    const node = app.graph.getNodeById(id)
    const panel = node.janusPanel?.shown.closest(".janus-panel")
    const prompt = node.widgets?.find(({ name }) => ["prompt", "question", "message"].includes(name))
    const place = document.querySelector(`[data-node-id="${id}"]`)
    return {
        node: nodes2 ? box(place) : [...node.boundingRect],
        panel: panel && getComputedStyle(panel).display !== "none" ? box(panel) : null,
        parts: panel ? [...panel.querySelectorAll(".janus-scroll, .janus-bar, .janus-pictures, .janus-error:not([hidden])")].map(box) : [],
        picture: panel?.querySelector("img") ? box(panel.querySelector("img")) : null,
        prompt: prompt ? box(nodes2 ? place.querySelector("textarea") : prompt.element) : null,
    }
}"""
# Which wires run behind which nodes, as [link, node]: points in a node's box are looked for in the drawn paths.
BEHIND = """(boxes) => {
    const pen = document.createElement("canvas").getContext("2d")
    pen.lineWidth = 4
    const found = []
    for (const link of app.graph.links.values()) {
        const paths = [link.path]
        for (let bend = app.graph.reroutes.get(link.parentId); bend; bend = app.graph.reroutes.get(bend.parentId))
            paths.push(bend.path)
        for (const [id, [x, y, width, height]] of Object.entries(boxes)) {
            const ends = [link.origin_id, link.target_id].map(String)
            if (ends.includes(id)) continue
            for (let across = x + 8; across < x + width - 8; across += 3)
                for (let down = y + 8; down < y + height - 8; down += 3)
                    if (paths.some((path) => path && pen.isPointInStroke(path, across, down))) found.push([link.id, id])
        }
    }
    return [app.graph.links.size, [...new Set(found.map(String))]]
}"""
# The contrast of each paragraph of the note with what is behind it, as WCAG counts it.
CONTRAST = """([id, nodes2]) => {
    const node = app.graph.getNodeById(id)
    const place = nodes2 ? document.querySelector(`[data-node-id="${id}"]`) : node.widgets[0].element
    const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d")
    const light = (colours) => {
        pen.clearRect(0, 0, 1, 1)
        for (const colour of colours) {
            pen.fillStyle = colour
            pen.fillRect(0, 0, 1, 1)
        }
        const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((value) =>
            value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    return [...place.querySelectorAll("p, li, h2")].map((words) => {
        const behind = [node.bgcolor]
        for (let part = words; part !== place.parentElement; part = part.parentElement)
            behind.splice(1, 0, getComputedStyle(part).backgroundColor)
        const [paper, ink] = [light(behind), light([...behind, getComputedStyle(words).color])]
        return (Math.max(paper, ink) + 0.05) / (Math.min(paper, ink) + 0.05)
    })
}"""


def template(canvas: Canvas, name: str) -> dict[str, Any]:
    """Open one of the shipped workflows. Gives it as it lies on the canvas."""
    canvas.open(json.loads((PACK / "workflows" / f"{name}.json").read_text()))
    canvas.page.wait_for_function("app.graph._nodes.length > 0")
    canvas.show()
    canvas.page.wait_for_timeout(300)  # Nodes 2.0 lays its elements out
    return canvas.workflow()


def give(canvas: Canvas, node: int, output: dict[str, Any]) -> None:
    """Let a node show what a run might have put out."""
    canvas.page.evaluate("([id, output]) => app.graph.getNodeById(id).onExecuted(output)", [node, output])


def pictures(canvas: Canvas, count: int) -> dict[str, Any]:
    """The output of Janus Text-to-Image with pictures of 384 x 384 pixels."""
    folder = canvas.server.base / "temp"
    folder.mkdir(exist_ok=True)
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((384, 384), Image.Resampling.BICUBIC).save(folder / f"picture{i}.png")
    place = {"subfolder": "", "type": "temp"}
    return {"janus_pictures": [{**place, "filename": f"picture{i}.png", "seed": str(i)} for i in range(count)]}


def inside(inner: list[float], outer: list[float], slack: float = 2) -> bool:
    (x, y, w, h), (left, top, width, height) = inner, outer
    return left - slack <= x and x + w <= left + width + slack and top - slack <= y and y + h <= top + height + slack


def check_boxes(canvas: Canvas, workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Nothing leaves its node, and no node its group; the prompt has more than two lines, and less room than the panel."""
    canvas.show()
    canvas.page.wait_for_timeout(300)
    found = {
        str(node["id"]): canvas.page.evaluate(BOXES, [node["id"], canvas.nodes2]) | {"type": node["type"]}
        for node in workflow["nodes"]
    }
    groups = [group["bounding"] for group in canvas.workflow()["groups"]]
    for boxes in found.values():
        if boxes["type"] != "MarkdownNote":
            assert any(inside(boxes["node"], group) for group in groups), boxes
        if boxes["panel"]:
            assert inside(boxes["panel"], boxes["node"]), boxes
            assert all(inside(part, boxes["panel"]) for part in boxes["parts"]), boxes
        if boxes["prompt"] and boxes["prompt"][3]:  # the classic renderer hides it when it is very small
            assert 60 < boxes["prompt"][3] < boxes["panel"][3], boxes
    return found


@pytest.mark.everywhere
@pytest.mark.parametrize("count", [1, 16])
def test_pictures_stay_in_their_node_and_are_large(canvas: Canvas, count: int) -> None:
    workflow = template(canvas, "text_to_image")
    draw = canvas.node("JanusTextToImage")
    before = check_boxes(canvas, workflow)[str(draw)]
    give(canvas, draw, pictures(canvas, count))
    canvas.page.wait_for_function(
        "[...document.querySelectorAll('.janus-picture img')].every((image) => image.naturalWidth)"
    )
    after = check_boxes(canvas, workflow)[str(draw)]
    assert after["picture"][2:] == pytest.approx([after["picture"][3]] * 2, abs=1)
    assert after["picture"][3] > 256
    assert after["prompt"] == pytest.approx(before["prompt"], abs=1)
    next(node for node in workflow["nodes"] if str(node["id"]) == str(draw))["size"][1] += 200
    canvas.open(workflow)
    canvas.show(draw)
    canvas.page.wait_for_timeout(300)
    assert canvas.page.evaluate(BOXES, [draw, canvas.nodes2])["picture"][3] > after["picture"][3] + 60


@pytest.mark.everywhere
def test_a_long_answer_stays_in_its_node(canvas: Canvas) -> None:
    workflow = template(canvas, "describe_image")
    check_boxes(canvas, workflow)
    give(canvas, canvas.node("JanusDescribeImage"), {"text": [ANSWER]})
    check_boxes(canvas, workflow)
    give(canvas, canvas.node("JanusDescribeImage"), {"text": [ANSWER] * 16})
    check_boxes(canvas, workflow)


@pytest.mark.everywhere
def test_a_long_chat_stays_in_its_node(canvas: Canvas) -> None:
    workflow = template(canvas, "chat")
    for node in workflow["nodes"]:
        if node["type"] == "JanusChat":
            give(canvas, node["id"], {"janus_turns": TURNS, "janus_context": [900, 1024]})
    check_boxes(canvas, workflow)


@pytest.mark.everywhere
def test_no_wire_runs_behind_a_node(canvas: Canvas) -> None:
    for name in NAMES:
        workflow = template(canvas, name)
        boxes = {number: found["node"] for number, found in check_boxes(canvas, workflow).items()}
        assert canvas.page.evaluate(BEHIND, boxes) == [len(workflow["links"]), []]


@pytest.mark.everywhere
def test_the_notes_can_be_read(canvas: Canvas) -> None:
    for name in NAMES:
        workflow = template(canvas, name)
        (note,) = (node["id"] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
        contrast = canvas.page.evaluate(CONTRAST, [note, canvas.nodes2])
        assert len(contrast) > 3
        assert min(contrast) >= 4.5


@pytest.mark.everywhere
def test_a_picture_is_shown_once_and_stays_when_it_comes_from_the_cache(canvas: Canvas) -> None:
    template(canvas, "text_to_image")
    draw = canvas.node("JanusTextToImage")
    seed = next(SEEDS)
    canvas.set(draw, seed=seed, control_after_generate="fixed", batch_size=2)
    for _ in range(2):
        canvas.run()
        expect(canvas.page.locator(".janus-picture")).to_have_text(
            [f"seed {seed} (1 of 2)", f"seed {seed + 1} (2 of 2)"]
        )
        assert not canvas.page.evaluate("id => app.graph.getNodeById(id).imgs?.length", draw)
        if canvas.nodes2:
            canvas.show(draw)
            expect(canvas.element(draw).locator("img:visible")).to_have_count(2)
    assert [e for e in canvas.seen() if e["name"] == "progress"] == []  # the second run drew nothing


@pytest.mark.newest
def test_the_panel_is_no_entry_among_a_nodes_settings(canvas: Canvas) -> None:
    canvas.add("JanusTextToImage", (300, 200))
    canvas.page.evaluate("app.canvas.selectItems(app.graph._nodes)")
    canvas.page.get_by_label("Toggle properties panel").click()
    expect(canvas.page.get_by_text("temperature").last).to_be_visible()
    shown = canvas.page.evaluate("document.body.innerText")
    canvas.page.get_by_label("Toggle properties panel").click()
    assert "janus_panel" not in shown
