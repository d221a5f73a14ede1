"""Tokens as a canvas, in the browser: repainted, extended and varied pictures on their nodes, and what Sampling overrules."""

import json

import pytest
from canvas import Canvas
from comfy_server import PACK
from playwright.sync_api import Locator, expect

OVERRULED = ["top_k", "top_p", "sampler", "window"]
# The tokens of a shown mask that are white, as [row, column].
WHITE = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
    return [...Array(canvas.width * canvas.height).keys()].filter((i) => data[4 * i] === 255)
        .map((i) => [Math.floor(i / canvas.width), i % canvas.width])
}"""


def template(canvas: Canvas, name: str) -> None:
    canvas.open(json.loads((PACK / "workflows" / f"{name}.json").read_text()))
    canvas.page.wait_for_function("app.graph._nodes.length > 0")


def panel_of(canvas: Canvas, node: int) -> Locator:
    canvas.show(node)
    canvas.page.evaluate("id => app.graph.getNodeById(id).janusPanel.shown.id = `panel-${id}`", node)
    return canvas.page.locator(f"#panel-{node}")


@pytest.mark.both
def test_a_masked_photograph_is_repainted_and_the_mask_used_is_shown(canvas: Canvas) -> None:
    template(canvas, "repaint_photo")
    draw = canvas.node("JanusRepaint")
    canvas.set(canvas.node("LoadImage"), image="masked.png")
    canvas.set(draw, candidates=2, seed=41, control_after_generate="fixed")
    canvas.show()
    canvas.run()
    panel = panel_of(canvas, draw)
    expect(panel.locator(".janus-picture")).to_have_text(["seed 41"])
    assert panel.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 320
    assert panel.locator(".janus-mask").evaluate(WHITE) == [[2, 2], [2, 3], [3, 2], [3, 3]]
    expect(panel.locator(".janus-mask")).to_be_in_viewport(ratio=1)
    canvas.set(canvas.node("LoadImage"), image="example.png")
    canvas.run()
    expect(panel.locator(".janus-bar")).to_have_text("Nothing was masked")


@pytest.mark.both
def test_a_picture_is_extended_below_its_upper_half(canvas: Canvas) -> None:
    template(canvas, "extend")
    draw = canvas.node("JanusRepaint")
    canvas.set(draw, seed=42, control_after_generate="fixed")
    canvas.show()
    canvas.run()
    panel = panel_of(canvas, draw)
    expect(panel.locator(".janus-picture")).to_have_text(["seed 42"])
    assert panel.locator(".janus-mask").evaluate(WHITE) == [[row, column] for row in (3, 4, 5) for column in range(6)]


@pytest.mark.both
def test_a_variation_is_shown_with_the_seed_that_draws_it(canvas: Canvas) -> None:
    template(canvas, "variations")
    vary = canvas.node("JanusVariations")
    canvas.set(vary, seed=43, control_after_generate="randomize")
    canvas.show()
    canvas.run()
    shown = panel_of(canvas, vary).locator(".janus-picture")
    expect(shown).to_have_text(["seed 43"])
    shown.click()
    assert [canvas.widget(vary, name) for name in ("seed", "control_after_generate")] == [43, "fixed"]


def test_picked_and_joined_tokens_become_pictures(canvas: Canvas) -> None:
    load = canvas.add("JanusLoader", (0, 0))
    draw = canvas.add("JanusTextToImage", (400, 0), prompt="two blue rings", seed=44, batch_size=3)
    pick = canvas.add("JanusPickTokens", (850, 0), index=1, length=2)
    join = canvas.add("JanusJoinTokens", (1150, 0))
    decode = canvas.add("JanusVQDecode", (1400, 0))
    show = canvas.add("PreviewImage", (1700, 0))
    for node in (draw, decode):
        canvas.link(load, "janus", node, "janus")
    canvas.link(draw, "tokens", pick, "tokens")
    canvas.link(pick, "tokens", join, "tokens_1")
    canvas.link(draw, "tokens", join, "tokens_2")
    canvas.link(join, "tokens", decode, "tokens")
    canvas.link(decode, "image", show, "images")
    canvas.show()
    canvas.run()
    canvas.page.wait_for_function("id => app.graph.getNodeById(id).imgs?.length === 5", arg=show)


@pytest.mark.both
def test_a_connected_sampling_greys_what_it_overrules(canvas: Canvas) -> None:
    sampling = canvas.add("JanusSampling", (0, 0))
    draw = canvas.add("JanusTextToImage", (440, 0), top_k=7, sampler="jacobi")

    def overruled() -> list[str]:
        """The names of the grey inputs that say so, as the renderer shows them."""
        if not canvas.nodes2:
            canvas.show()
            return canvas.page.evaluate(
                """id => app.graph.getNodeById(id).widgets
                    .filter((it) => it.computedDisabled && it.label === `${it.name} (overruled)`).map(({ name }) => name)""",
                draw,
            )
        canvas.page.wait_for_timeout(300)
        words = canvas.element(draw).inner_text().split("\n")
        return [name for name in OVERRULED if f"{name} (overruled)" in words and name not in words]

    assert overruled() == []
    canvas.link(sampling, "sampling", draw, "sampling")
    canvas.page.wait_for_timeout(300)
    assert overruled() == OVERRULED
    if canvas.nodes2:
        assert canvas.element(draw).locator("input:disabled").count() == 3  # the sampler is a button
    saved = canvas.workflow()
    (values,) = (node["widgets_values"] for node in saved["nodes"] if node["type"] == "JanusTextToImage")
    assert values[6:10] == [7, 1, "jacobi", 8]
    canvas.page.evaluate(
        "id => { const node = app.graph.getNodeById(id); node.disconnectInput(node.findInputSlot('sampling')) }", draw
    )
    canvas.page.wait_for_timeout(300)
    assert overruled() == []
    canvas.open(saved)
    assert overruled() == OVERRULED
