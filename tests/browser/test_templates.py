"""The shipped workflows and the blueprint, from ComfyUI's own lists to the picture and the answer on the canvas."""

import re

import pytest
from canvas import Canvas
from comfy_server import PACK
from playwright.sync_api import expect
from sample_files import SMALL_DIFFUSION

NAMES = sorted(path.stem for path in (PACK / "workflows").glob("*.json"))
WIDTH = {"draw_and_upscale": 192, "refine_with_diffusion": 64, "repaint_photo": 320}  # of the saved picture, else 96
BLUEPRINT = "Janus draw and upscale"
# The pictures that a node shows, by width; Nodes 2.0 draws them as elements, the classic renderer on its canvas.
WIDTHS = """([id, nodes2]) => {
    const images = nodes2 ? document.querySelectorAll(`[data-node-id="${id}"] img`) : app.graph.getNodeById(id).imgs
    return [...(images ?? [])].map((image) => image.naturalWidth)
}"""


def wait_for_picture(canvas: Canvas, kind: str, width: int) -> None:
    canvas.page.wait_for_function(
        f"([id, nodes2, width]) => ({WIDTHS})([id, nodes2]).includes(width)",
        arg=[canvas.node(kind), canvas.nodes2, width],
    )


@pytest.mark.both
def test_the_list_of_templates_shows_a_picture_for_each(canvas: Canvas) -> None:
    canvas.browse_templates()
    for name in NAMES:
        card = f'[data-testid="template-workflow-{name}"]'
        canvas.page.locator(card).scroll_into_view_if_needed()
        canvas.page.wait_for_function("card => document.querySelector(`${card} img`)?.naturalWidth >= 256", arg=card)
    canvas.page.get_by_test_id(f"template-workflow-{NAMES[0]}").click()
    canvas.page.get_by_test_id("template-workflows-content").wait_for(state="hidden")


@pytest.mark.both
@pytest.mark.parametrize("name", NAMES)
def test_the_template_opens_runs_and_shows_what_came_out(canvas: Canvas, name: str) -> None:
    canvas.open_template(name)
    assert (
        canvas.page.evaluate("app.graph._nodes.filter((node) => !(node.type in LiteGraph.registered_node_types))") == []
    )
    assert canvas.page.locator('[role="dialog"]:visible').count() == 0
    kinds = set(canvas.page.evaluate("app.graph._nodes.map((node) => node.type)"))
    for kind in kinds & SMALL_DIFFUSION.keys():
        canvas.set(canvas.node(kind), **SMALL_DIFFUSION[kind])
    canvas.show()
    canvas.run()
    if "SaveImage" in kinds:
        wait_for_picture(canvas, "SaveImage", WIDTH.get(name, 96))
    told = [event["output"] for event in canvas.wait_for("executed")]
    words = [text for output in told for text in output.get("text", [])]
    words += [turn["content"] for output in told for turn in output.get("janus_turns", [])]
    assert bool(words) == bool(kinds & {"JanusDescribeImage", "JanusChat"})
    for text in words:
        assert text
        expect(canvas.page.locator(".janus-panel").get_by_text(text).first).to_be_visible()


@pytest.mark.newest
def test_an_app_asks_a_question_and_shows_the_answer(canvas: Canvas) -> None:
    canvas.open_template("describe_image")
    skip = canvas.page.get_by_role("button", name="Skip")
    canvas.page.add_locator_handler(skip, lambda: skip.click())  # a tour of apps, the first time
    canvas.command("Comfy.ToggleLinear")
    canvas.page.get_by_test_id("linear-widgets").get_by_role("textbox").last.fill("Describe the picture.")
    canvas.page.get_by_role("button", name="Run", exact=True).click()
    told = canvas.wait_for("executed")[0]["output"]["text"][0]
    expect(canvas.page.get_by_test_id("linear-center-panel").get_by_text(told)).to_be_visible()
    canvas.page.remove_locator_handler(skip)
    canvas.command("Comfy.ToggleLinear")


@pytest.mark.both
def test_the_blueprint_comes_from_the_node_library_and_runs(canvas: Canvas) -> None:
    canvas.command("Workspace.ToggleSidebarTab.node-library")
    search = canvas.page.get_by_placeholder(re.compile("search", re.IGNORECASE)).locator("visible=true").first
    search.fill(BLUEPRINT)
    canvas.page.get_by_text(BLUEPRINT, exact=True).locator("visible=true").first.click()
    canvas.page.mouse.click(420, 700)  # newer frontends hang it on the pointer until a click puts it down
    canvas.page.wait_for_function("app.graph._nodes.length === 1")
    canvas.command("Workspace.ToggleSidebarTab.node-library")
    draw = canvas.page.evaluate("app.graph._nodes[0].id")
    canvas.link(draw, "image", canvas.add("SaveImage", (700, 100)), "images")
    canvas.show()
    canvas.run()
    wait_for_picture(canvas, "SaveImage", 192)
