"""What the nodes show on themselves: pictures that grow, words that stream, conversations, seeds."""

import json
import re
import signal
from itertools import pairwise

import pytest
from canvas import Canvas
from playwright.sync_api import Locator, expect

PROMPT = "a red circle at the top left and a blue square at the center on a white background"

# Whether the panel shows a frame, which is larger than a picture; whether the node is done.
GROWN = """() => [
    [...document.querySelectorAll(".janus-picture img")].some(({ naturalWidth }) => naturalWidth > 96),
    seen.some(({ name }) => name === "executed"),
]"""


def drawing(canvas: Canvas, **widgets: object) -> int:
    """Load Janus and a wired Janus Text-to-Image with a Preview Image. Gives the drawing node's id."""
    loader = canvas.add("JanusLoader", (0, 0))
    draw = canvas.add("JanusTextToImage", (340, 0), prompt=PROMPT, cfg=1.5, control_after_generate="fixed", **widgets)
    show = canvas.add("PreviewImage", (800, 500))
    canvas.link(loader, "janus", draw, "janus")
    canvas.link(draw, "image", show, "images")
    return draw


def describing(canvas: Canvas, draw: int) -> int:
    describe = canvas.add("JanusDescribeImage", (800, 0), max_tokens=40)
    canvas.link(canvas.node("JanusLoader"), "janus", describe, "janus")
    canvas.link(draw, "image", describe, "image")
    return describe


def answers(canvas: Canvas) -> Locator:
    return canvas.page.locator(".janus-panel .janus-text")


def outputs(canvas: Canvas, node: int) -> list[dict]:
    """What the server told of a node while the run went on."""
    return [
        e["detail"]["output"] for e in canvas.seen() if e["name"] == "janus.output" and e["detail"]["node"] == str(node)
    ]


@pytest.mark.everywhere
def test_pictures_grow_while_they_are_drawn(canvas: Canvas) -> None:
    drawing(canvas, seed=11, batch_size=4)
    canvas.show()
    canvas.queue()
    grown = over = False
    while not grown and not over:  # the server goes on by small steps, and the page is looked at in between
        canvas.page.wait_for_timeout(50)
        canvas.server.process.send_signal(signal.SIGSTOP)
        try:
            canvas.page.wait_for_timeout(100)
            grown, over = canvas.page.evaluate(GROWN)
        finally:
            canvas.server.process.send_signal(signal.SIGCONT)
    assert grown and not over
    canvas.wait_for("execution_success")
    shown = canvas.page.locator(".janus-picture img")
    expect(shown).to_have_count(4)
    assert shown.first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96


@pytest.mark.everywhere
def test_answers_stream_and_stay_after_a_reload(canvas: Canvas) -> None:
    draw = drawing(canvas, seed=12, batch_size=2)
    describe = describing(canvas, draw)
    canvas.set(describe, max_tokens=39)
    canvas.show()
    canvas.run()
    told = [output["text"] for output in outputs(canvas, describe)]
    first = [texts[0] for texts in told if len(texts) == 1]
    assert len(set(first)) > 1
    assert all(later.startswith(sooner) for sooner, later in pairwise(first))
    expect(answers(canvas)).to_have_text(told[-1])
    expect(canvas.page.locator(".janus-panel .janus-number")).to_have_text(["1", "2"])
    canvas.wait_until_kept(r'janus_output[^]{0,999}picture\.\\?",39,')
    canvas.reload()
    expect(answers(canvas)).to_have_text(told[-1])


def test_an_answer_is_copied_with_one_click(canvas: Canvas) -> None:
    describing(canvas, drawing(canvas, seed=13))
    canvas.show()
    canvas.run()
    expect(answers(canvas)).to_have_count(1)
    copy = canvas.page.locator(".janus-panel").get_by_text("Copy", exact=True)
    copy.click()
    expect(canvas.page.get_by_text("Copied")).to_be_visible()
    assert canvas.page.evaluate("navigator.clipboard.readText()") == answers(canvas).inner_text()
    canvas.page.evaluate("navigator.clipboard.writeText('nothing')")
    # Over plain http from another machine a page has no clipboard of this kind.
    canvas.page.evaluate("window.kept = navigator.clipboard")
    canvas.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    expect(copy).to_have_text("Copy")
    copy.click()
    assert canvas.page.evaluate("window.kept.readText()") == answers(canvas).inner_text()


@pytest.mark.both
def test_a_saved_file_is_told_and_listed_at_once(canvas: Canvas) -> None:
    name = f"saved-{canvas.nodes2}"
    canvas.add("JanusSave", (340, 0), filename=name)
    loader = canvas.add("JanusLoader", (0, 0))
    canvas.show()
    canvas.run()
    expect(canvas.page.locator(".janus-panel .janus-text")).to_have_text(re.compile(rf"{name}\.safetensors$"))
    canvas.page.wait_for_function(
        """([id, file]) => app.graph.getNodeById(id).widgets[0].options.values.includes(file)""",
        arg=[loader, f"{name}.safetensors"],
    )


@pytest.mark.both
def test_saved_tokens_are_told_and_listed_at_once(canvas: Canvas) -> None:
    draw = drawing(canvas, seed=16)
    save = canvas.add("JanusSaveTokens", (800, 0), filename_prefix=f"listed-{canvas.nodes2}")
    canvas.link(draw, "tokens", save, "tokens")
    loader = canvas.add("JanusLoadTokens", (800, 300))
    canvas.show()
    canvas.run()
    name = f"listed-{canvas.nodes2}_00001_.tokens.safetensors"
    told = canvas.page.locator(".janus-panel .janus-text").get_by_text(name)
    expect(told).to_have_count(1)
    canvas.page.wait_for_function(
        "([id, file]) => app.graph.getNodeById(id).widgets[0].options.values.includes(file)",
        arg=[loader, f"{name} [output]"],
    )


def test_an_answer_can_be_selected_without_moving_the_node(canvas: Canvas) -> None:
    describe = describing(canvas, drawing(canvas, seed=14))
    canvas.show()
    canvas.run()
    before = canvas.page.evaluate("id => [...app.graph.getNodeById(id).pos]", describe)
    answers(canvas).first.dblclick(position={"x": 8, "y": 8})
    assert canvas.page.evaluate("String(getSelection())").strip() in answers(canvas).inner_text().split()
    assert canvas.page.evaluate("id => [...app.graph.getNodeById(id).pos]", describe) == before


def test_answers_come_back_with_a_run_from_the_history(canvas: Canvas) -> None:
    describe = describing(canvas, drawing(canvas, seed=15))
    canvas.run()
    text = answers(canvas).inner_text()
    canvas.page.evaluate("outputs => { app.nodeOutputs = outputs }", {})
    workflow = canvas.workflow()
    for node in workflow["nodes"]:
        node["properties"].pop("janus_output", None)
    workflow["id"] = "00000000-0000-4000-8000-000000000000"
    canvas.open(workflow)
    expect(answers(canvas)).to_have_count(0)
    canvas.page.evaluate("outputs => { app.nodeOutputs = outputs }", {str(describe): {"text": [text]}})
    expect(answers(canvas)).to_have_text([text])


@pytest.mark.both
def test_a_chat_of_three_turns_keeps_its_context(canvas: Canvas) -> None:
    draw = drawing(canvas, seed=16)
    first = canvas.add("JanusChat", (800, 0), message="Describe the picture.", max_tokens=40)
    canvas.link(canvas.node("JanusLoader"), "janus", first, "janus")
    canvas.link(draw, "image", first, "image")
    messages = ["Describe the picture.", "What colour is the circle?", "Where is the square?"]
    said = canvas.page.locator(".janus-said.user")
    lengths, last = [], first
    for turn in range(3):
        canvas.page.evaluate("() => app.canvas.deselectAll()")
        canvas.run()
        (done,) = [e["output"] for e in canvas.wait_for("executed") if e["node"] == str(last)]
        assert [t["content"] for t in done["janus_turns"][::2]] == messages[: turn + 1]
        assert all(t["content"] for t in done["janus_turns"])
        lengths.append(done["janus_context"][0])
        panel = canvas.page.locator(".janus-panel", has=said).last
        expect(panel.locator(".janus-said.user")).to_contain_text(messages[: turn + 1])
        expect(panel.locator(".janus-context")).to_have_text(f"{lengths[-1]} of 1024 tokens")
        if turn < 2:
            canvas.show(last)
            panel.get_by_text("Reply", exact=True).click()
            last = canvas.page.evaluate("[...app.canvas.selectedItems][0].id")
            canvas.set(last, message=messages[turn + 1])
    assert lengths == sorted(set(lengths))
    saved = canvas.workflow()
    assert "janus_turns" not in json.dumps(saved)
    canvas.show(last)
    canvas.page.locator(".janus-keep input").last.check()
    saved = canvas.workflow()
    kept = [node["properties"].get("janus_output") for node in saved["nodes"] if str(node["id"]) == str(last)]
    assert kept[0]["janus_turns"] == done["janus_turns"]


@pytest.mark.both
def test_a_chat_in_a_subgraph_goes_on_with_the_model_that_comes_from_outside(canvas: Canvas) -> None:
    loader = canvas.add("JanusLoader", (0, 0))
    chat = canvas.add("JanusChat", (400, 0), message="Describe the picture.", max_tokens=8)
    canvas.link(loader, "janus", chat, "janus")
    canvas.page.evaluate(
        """async (id) => {
            const { subgraph } = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)]))
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
            app.canvas.openSubgraph(subgraph)
        }""",
        chat,
    )
    inside = "app.canvas.graph.nodes"
    canvas.run()
    canvas.page.evaluate(f"() => app.canvas.centerOnNode({inside}[0])")
    canvas.page.locator(".janus-panel").get_by_text("Reply", exact=True).click()
    canvas.page.evaluate(f"() => {{ {inside}[1].widgets[0].value = 'Describe it again.' }}")
    canvas.run()
    turns = (
        "node => node.janusPanel.output.janus_turns.filter(({ role }) => role === 'user').map(({ content }) => content)"
    )
    assert canvas.page.evaluate(f"{inside}.map({turns})") == [
        ["Describe the picture."],
        ["Describe the picture.", "Describe it again."],
    ]


@pytest.mark.both
def test_a_seed_is_put_back_into_the_node(canvas: Canvas) -> None:
    draw = drawing(canvas, seed=40, batch_size=3)
    canvas.set(draw, control_after_generate="randomize")
    canvas.show()
    canvas.run()
    pictures = canvas.page.locator(".janus-picture")
    expect(pictures).to_have_count(3)
    expect(pictures.nth(2)).to_have_attribute("title", re.compile("Seed 42"))
    pictures.nth(2).hover()
    expect(pictures.nth(2).locator("span")).to_have_css("opacity", "1")
    pictures.nth(2).click()
    settings = [canvas.widget(draw, name) for name in ("seed", "batch_size", "control_after_generate")]
    assert settings == [42, 1, "fixed"]
    canvas.run()
    expect(pictures).to_have_count(1)
    expect(pictures).to_have_attribute("title", re.compile("Seed 42"))
