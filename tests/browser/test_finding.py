"""What helps to find one's way: help pages, colours and the user's own language."""

import pytest
from canvas import Canvas
from playwright.sync_api import Browser

COLOURS = """() => [
    app.canvas.default_connection_color_byType, LGraphCanvas.link_type_colors
].map((table) => table.JANUS).concat(getComputedStyle(document.body).getPropertyValue("--color-datatype-JANUS"))"""

PAPER = "getComputedStyle(document.body).getPropertyValue('--bg-color')"


@pytest.mark.both
def test_the_help_page_opens_from_the_node_with_its_picture(canvas: Canvas) -> None:
    node = canvas.add("JanusVQDecode", (300, 200))
    canvas.show(node)
    canvas.page.evaluate("id => app.canvas.selectItems([app.graph.getNodeById(id)])", node)
    canvas.page.get_by_test_id("info-button").click()
    page = canvas.page.locator(".node-help-content")
    page.get_by_role("heading", name="Good to know").wait_for()
    canvas.page.wait_for_function("document.querySelector('.node-help-content img')?.naturalWidth >= 200")
    if (panel := canvas.page.get_by_label("Toggle properties panel")).is_visible():
        panel.click()  # newer frontends open the page in it, and leave it open


@pytest.mark.both
def test_the_sockets_keep_their_colour_in_every_palette(canvas: Canvas) -> None:
    colours = canvas.page.evaluate(COLOURS)
    assert len(set(colours)) == 1
    assert colours[0].startswith("#")
    for _ in range(2):
        paper = canvas.page.evaluate(PAPER)
        canvas.command("Comfy.ToggleTheme")
        canvas.page.wait_for_function(f"paper => {PAPER} !== paper", arg=paper)
        assert canvas.page.evaluate(COLOURS) == colours


@pytest.mark.newest  # 1.32.9 loads its own words over those of every pack, in all languages but English
@pytest.mark.parametrize(
    ("language", "title", "socket"), [("zh", "加载 Janus", "模型"), ("ja", "Janus を読み込む", "モデル")]
)
def test_the_nodes_speak_the_users_language(
    browser: Browser, canvas: Canvas, language: str, title: str, socket: str
) -> None:
    abroad = Canvas(browser, canvas.server, canvas.nodes2, locale=language)
    try:
        node = abroad.add("JanusLoader")
        said = "id => { const n = app.graph.getNodeById(id); return [n.title, n.outputs[0].localized_name] }"
        assert abroad.page.evaluate(said, node) == [title, socket]
        assert abroad.errors == []
    finally:
        abroad.close()
