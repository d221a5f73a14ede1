"""Workflows that were saved with CY-CHENYUE/ComfyUI-Janus-Pro: opened, turned into ours with one click, and run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from canvas import Canvas
from comfy_server import PACK
from playwright.sync_api import Locator, expect

SAVED = PACK / "tests" / "data" / "cy_workflows"
TYPES = "app.graph._nodes.map(({ type }) => type).sort()"


@pytest.fixture
def weights(canvas: Canvas) -> Iterator[None]:
    """A small model under a published one's name, where users of that pack have theirs."""
    folder = canvas.server.base / "models" / "Janus-Pro" / "Janus-Pro-1B"
    shutil.copytree(PACK / "tests" / "data" / "tiny_deepseek", folder)
    canvas.command("Comfy.RefreshNodeDefinitions")
    yield
    shutil.rmtree(folder)
    canvas.command("Comfy.RefreshNodeDefinitions")


def open_saved(canvas: Canvas, name: str, prompt: str = "a red circle") -> None:
    """Begin to open a workflow, which waits for an answer."""
    workflow = json.loads((SAVED / f"{name}.json").read_text().replace("a red circle", prompt))
    canvas.page.evaluate("workflow => { window.opened = app.loadGraphData(workflow) }", workflow)


def offer(canvas: Canvas) -> Locator:
    return canvas.page.get_by_role("dialog").filter(has_text="ComfyUI-Janus-Pro")


def accept(canvas: Canvas) -> None:
    offer(canvas).get_by_role("button", name="Confirm").click()
    canvas.page.evaluate("opened")


@pytest.fixture
def replacing(canvas: Canvas) -> Iterator[Canvas]:
    """A frontend whose server says that it replaces these nodes itself, as newer versions of ComfyUI do."""
    rules = json.loads((PACK / "web" / "replacements.json").read_text())
    table = {rule["old_node_id"]: [rule] for rule in rules}
    canvas.page.route("**/api/node_replacements", lambda route: route.fulfill(json=table))
    canvas.page.evaluate(
        "app.api.serverFeatureFlags.value = {...app.api.serverFeatureFlags.value, node_replacements: true}"
    )
    yield canvas
    canvas.stale = True  # the frontend keeps the table


def executed(canvas: Canvas, kind: str) -> dict[str, Any]:
    """What the node of a type put out in the last run."""
    node = str(canvas.node(kind))
    return next(detail["output"] for detail in canvas.wait_for("executed") if detail["node"] == node)


@pytest.mark.both
def test_one_click_turns_a_drawing_workflow_into_ours_and_it_draws(canvas: Canvas, weights: None) -> None:
    open_saved(canvas, "draw")
    accept(canvas)
    assert canvas.page.evaluate(TYPES) == ["JanusLoader", "JanusTextToImage", "SaveImage"]
    assert canvas.widget(canvas.node("JanusLoader"), "checkpoint") == "Janus-Pro-1B"
    settings = {"prompt": "a red circle", "seed": 7, "control_after_generate": "fixed", "batch_size": 2, "cfg": 1.5}
    settings |= {"temperature": 0.9, "top_k": 0, "top_p": 1}
    assert {name: canvas.widget(canvas.node("JanusTextToImage"), name) for name in settings} == settings
    canvas.run()
    assert len(executed(canvas, "SaveImage")["images"]) == 2


@pytest.mark.both
def test_a_describing_workflow_answers(canvas: Canvas, weights: None) -> None:
    open_saved(canvas, "describe")
    accept(canvas)
    describe = canvas.node("JanusDescribeImage")
    settings = {"question": "What is it?", "seed": 3, "temperature": 0.2, "max_tokens": 16}
    assert {name: canvas.widget(describe, name) for name in settings} == settings
    canvas.run()
    assert executed(canvas, "PreviewAny")["text"] == executed(canvas, "JanusDescribeImage")["text"]


@pytest.mark.both
def test_nodes_in_a_subgraph_are_turned_too(canvas: Canvas, weights: None) -> None:
    open_saved(canvas, "in_a_subgraph")
    accept(canvas)
    inner = "[...app.graph.subgraphs.values()].flatMap((g) => g._nodes.map(({ type }) => type)).sort()"
    assert canvas.page.evaluate(inner) == ["JanusDescribeImage", "JanusTextToImage"]
    canvas.run()
    assert executed(canvas, "PreviewImage")["images"] and executed(canvas, "PreviewAny")["text"]
    prompt = canvas.page.evaluate("async () => (await app.graphToPrompt()).output")
    drawn = next(node["inputs"] for node in prompt.values() if node["class_type"] == "JanusTextToImage")
    assert prompt[drawn["prompt"][0]]["inputs"]["value"] == "a blue square"


def test_what_was_turned_is_saved_like_any_other_workflow(canvas: Canvas, weights: None) -> None:
    open_saved(canvas, "draw")
    accept(canvas)
    saved = canvas.page.evaluate("JSON.stringify(app.graph.serialize())")
    assert "JANUS_MODEL" not in saved and "JANUS_PROCESSOR" not in saved
    canvas.blank()
    canvas.open(json.loads(saved))
    canvas.run()


def test_declined_it_opens_as_it_is(canvas: Canvas) -> None:
    open_saved(canvas, "draw")
    offer(canvas).get_by_role("button", name="Cancel").click()
    canvas.page.evaluate("opened")
    assert canvas.page.evaluate(TYPES) == ["JanusImageGeneration", "JanusModelLoader", "SaveImage"]
    canvas.page.keyboard.press("Escape")  # ComfyUI's own list of missing nodes


@pytest.mark.both
def test_without_the_weights_the_run_is_refused_with_the_cure(canvas: Canvas) -> None:
    open_saved(canvas, "draw")
    accept(canvas)
    canvas.show()
    canvas.queue()
    expect(canvas.page.locator(".janus-error:visible")).to_contain_text(
        "There is no Janus checkpoint 'deepseek-ai/Janus-Pro-1B'"
    )
    canvas.page.keyboard.press("Escape")  # ComfyUI's own dialog


def warned_of(canvas: Canvas) -> Locator:
    """What the newest frontend shows about missing nodes, with its own offer to replace them."""
    return canvas.page.get_by_test_id("error-overlay")


@pytest.mark.newest
def test_a_host_that_replaces_nodes_itself_has_nothing_left_to_say(replacing: Canvas, weights: None) -> None:
    open_saved(replacing, "draw")
    accept(replacing)
    assert replacing.page.evaluate(TYPES) == ["JanusLoader", "JanusTextToImage", "SaveImage"]
    assert not warned_of(replacing).is_visible()
    draw = replacing.node("JanusTextToImage")
    fresh = replacing.page.evaluate("LiteGraph.createNode('JanusTextToImage').size[1]")
    assert replacing.page.evaluate("id => app.graph.getNodeById(id).size[1]", draw) >= fresh
    replacing.show(draw)
    expect(replacing.element(draw).get_by_role("textbox").first).to_have_value("a red circle")
    expect(replacing.element(draw).locator(".janus-panel")).to_be_visible()
    replacing.run()
    assert replacing.widget(draw, "control_after_generate") == "fixed"
    assert replacing.widget(draw, "seed") == 7


@pytest.mark.newest
def test_after_no_nothing_else_asks_not_even_after_undo(replacing: Canvas) -> None:
    open_saved(replacing, "draw")
    offer(replacing).get_by_role("button", name="Cancel").click()
    replacing.page.evaluate("opened")
    assert replacing.page.evaluate(TYPES) == ["JanusImageGeneration", "JanusModelLoader", "SaveImage"]
    assert not warned_of(replacing).is_visible()
    replacing.add("PreviewAny", (900, 900))
    replacing.page.evaluate("app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
    replacing.page.evaluate("window.undone = app.extensionManager.command.execute('Comfy.Undo')")
    replacing.page.wait_for_function("app.graph._nodes.length === 3")
    replacing.page.evaluate("undone")
    assert not offer(replacing).is_visible()


def test_nothing_is_offered_where_that_pack_is_installed(canvas: Canvas) -> None:
    canvas.page.evaluate(
        """() => {
            for (const kind of ["JanusModelLoader", "JanusImageGeneration"])
                LiteGraph.registerNodeType(kind, class extends LiteGraph.LGraphNode {})
        }"""
    )
    open_saved(canvas, "draw")
    canvas.page.evaluate("opened")
    assert not offer(canvas).is_visible()
    canvas.page.evaluate(
        """["JanusModelLoader", "JanusImageGeneration"].map((kind) => LiteGraph.unregisterNodeType(kind))"""
    )


def test_a_workflow_left_open_is_offered_again_when_the_page_comes_back(canvas: Canvas) -> None:
    open_saved(canvas, "draw", prompt="left open")
    offer(canvas).get_by_role("button", name="Cancel").click()
    canvas.page.evaluate("opened")
    canvas.wait_until_kept("left open")
    canvas.page.reload()
    offer(canvas).get_by_role("button", name="Confirm").click()
    canvas.wait_until_ready()
    assert canvas.widget(canvas.node("JanusTextToImage"), "prompt") == "left open"
