"""A node's error, readable on the node itself, until the next run."""

import pytest
from canvas import Canvas
from playwright.sync_api import Locator, expect


def error(canvas: Canvas) -> Locator:
    return canvas.page.locator(".janus-error:visible")


def queue(canvas: Canvas) -> None:
    """Press Run, after ComfyUI's own dialogs and toasts are gone."""
    canvas.page.keyboard.press("Escape")
    expect(canvas.page.get_by_role("dialog")).to_have_count(0)
    canvas.queue()


@pytest.mark.everywhere
def test_an_error_of_the_run_is_told_on_its_node_until_the_next_run(canvas: Canvas) -> None:
    loader = canvas.add("JanusLoader", (0, 0))
    chat = canvas.add("JanusChat", (400, 0), message=" ", max_tokens=4)
    canvas.link(loader, "janus", chat, "janus")
    canvas.show()
    canvas.queue()
    canvas.wait_for("execution_error")
    expect(error(canvas)).to_have_text("The message is empty: say or ask something.")
    canvas.set(chat, message="What is it?")
    queue(canvas)
    canvas.wait_for("execution_success")
    expect(error(canvas)).to_have_count(0)


@pytest.mark.everywhere
def test_what_validation_refuses_is_told_on_the_node_and_gone_with_the_next_run(canvas: Canvas) -> None:
    loader = canvas.add("JanusLoader", (0, 0))
    chat = canvas.add("JanusChat", (400, 0), message="What is it?", max_tokens=4)
    canvas.show()
    sizes = "app.graph._nodes.map(({ size }) => [...size])"
    before = canvas.page.evaluate(sizes)
    canvas.queue()
    expect(error(canvas)).to_contain_text("Nothing is connected to janus")
    canvas.link(loader, "janus", chat, "janus")
    name = canvas.widget(loader, "checkpoint")
    canvas.set(loader, checkpoint="gone")
    queue(canvas)
    expect(error(canvas)).to_have_text(
        "There is no Janus checkpoint 'gone' here: put its folder or file into ComfyUI's models/janus and refresh, or choose "
        "another in Load Janus, which can also download the published ones."
    )
    box = error(canvas).bounding_box()
    assert box and box["height"] > 30
    canvas.set(loader, checkpoint=name)
    queue(canvas)
    canvas.wait_for("execution_success")
    expect(error(canvas)).to_have_count(0)
    assert canvas.page.evaluate(sizes) == before
