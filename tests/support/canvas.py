"""Drives ComfyUI's frontend in a real Chromium: opens workflows, clicks templates and buttons, waits for events."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

from comfy_server import NAME, ComfyServer
from playwright.sync_api import Browser, BrowserType, ConsoleMessage, Error, Locator, Page
from prepare import chromium

EXTENSION = f"/extensions/{NAME}/"
FLAGS = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
READY = """!!(window.app?.graph && app.extensionManager && !app.extensionManager.spinner
    && LiteGraph.registered_node_types.JanusLoader)"""
# Records every event of a run in order, for `Canvas.wait_for`.
RECORD = """() => {
    if (window.seen) return
    window.seen = []
    const names = ["execution_start", "executing", "progress", "executed", "b_preview", "b_preview_with_metadata",
        "progress_text", "janus.output", "execution_success", "execution_error", "execution_interrupted"]
    for (const name of names)
        app.api.addEventListener(name, ({ detail }) => seen.push({ name, detail }))
}"""
ENDS = ("execution_success", "execution_error", "execution_interrupted")


def launch(chrome: BrowserType) -> Browser:
    """Debian's Chromium, without a window."""
    return chrome.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-sync", *FLAGS.split()])


class Canvas:
    """One page with the frontend of a server, in one of its two node renderers.

    `errors` collects the console's errors in this pack's files. After a failed test the fixture sets `stale`, so that the
    next test gets a new page.
    """

    def __init__(
        self,
        browser: Browser,
        server: ComfyServer,
        nodes2: bool,
        size: tuple[int, int] = (1280, 800),
        locale: str = "en-US",
    ):
        self.server = server
        self.nodes2 = nodes2
        self.errors: list[str] = []
        self.setting("Comfy.TutorialCompleted", True)
        self.setting("Comfy.Minimap.Visible", False)  # it would cover nodes
        self.setting("Comfy.RightSidePanel.IsOpen", False)
        self.setting("Comfy.VueNodes.Enabled", nodes2)
        self.new_context = partial(
            browser.new_context,
            viewport={"width": size[0], "height": size[1]},
            locale=locale,
            permissions=["clipboard-read", "clipboard-write"],
        )
        self._open_page()

    def _open_page(self) -> None:
        self.stale = False
        self.context = self.new_context()
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._note(f"{error.message}\n{error.stack}"))
        self.page.goto(self.server.address)
        self.wait_until_ready()

    def renew(self) -> None:
        """Open a new page and wait for an idle server: nothing stays open, queued or running."""
        self.context.close()
        self.server.post("/queue", {"clear": True})
        self.server.post("/interrupt")
        while self.server.get("/queue").json()["queue_running"]:
            time.sleep(0.05)
        self.setting("Comfy.RightSidePanel.IsOpen", False)
        self._open_page()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._note(f"{message.text} ({message.location['url']})")

    def _note(self, text: str) -> None:
        if EXTENSION in text:
            self.errors.append(text)

    def wait_until_ready(self) -> None:
        """Wait until the frontend is up, and record its events; needed after each page load."""
        self.page.wait_for_function(READY, timeout=120_000)
        self.page.evaluate(RECORD)

    def setting(self, name: str, value: object) -> None:
        """Change a user setting; an open page sees it after a reload."""
        self.server.post(f"/settings/{name}", value).raise_for_status()

    def reload(self) -> None:
        """Reload in the browser, which restores the open workflow."""
        self.page.reload()
        self.wait_until_ready()

    def wait_until_kept(self, pattern: str) -> None:
        """Wait until the browser has stored a draft that matches a regular expression, so that a reload restores it."""
        self.page.wait_for_function(
            "pattern => [localStorage, sessionStorage].some((kept) => Object.values(kept).some((it) => it.match(pattern)))",
            arg=pattern,
        )

    def command(self, name: str) -> None:
        """Run one of the frontend's commands by its id."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def blank(self) -> None:
        """Open a new, empty workflow in the current page."""
        self.wait_until_ready()
        self.command("Comfy.NewBlankWorkflow")
        self.page.evaluate("seen = []")

    def open(self, workflow: dict[str, Any]) -> None:
        """Open a workflow as saved by the frontend."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)

    def workflow(self) -> dict[str, Any]:
        """The open workflow as the frontend would save it."""
        return json.loads(self.page.evaluate("JSON.stringify(app.graph.serialize())"))

    def browse_templates(self) -> None:
        """Show this pack's workflows in ComfyUI's own list of templates."""
        self.command("Comfy.BrowseTemplates")
        self.page.get_by_text(NAME, exact=True).first.click()

    def open_template(self, name: str) -> None:
        """Open one of this pack's workflows from ComfyUI's own list of templates, by clicking."""
        self.browse_templates()
        self.page.get_by_test_id(f"template-workflow-{name}").click()
        self.page.get_by_test_id("template-workflows-content").wait_for(state="hidden")
        self.page.wait_for_function("app.graph._nodes.length > 0")

    def queue(self) -> None:
        """Press the Run button and forget earlier events."""
        self.page.evaluate("seen = []")
        self.page.get_by_test_id("queue-button").click()

    def wait_for(self, *names: str, count: int = 1, timeout: float = 60) -> list[dict[str, Any]]:
        """The details of the events of these names since `queue`, once there are `count` of them.

        Raises playwright's Error after `timeout` seconds, or as soon as the run ends otherwise.
        """
        condition = """([names, count, ends]) => {
            const found = seen.filter(({ name }) => names.includes(name))
            return found.length >= count || seen.some(({ name }) => ends.includes(name))
        }"""
        self.page.wait_for_function(condition, arg=[names, count, ENDS], timeout=timeout * 1000)
        found = [event["detail"] for event in self.seen() if event["name"] in names]
        if len(found) < count:
            raise Error(f"The run ended without {count} x {' or '.join(names)}: {self.seen()[-1]}")
        return found

    def run(self, timeout: float = 60) -> None:
        """Press the Run button and wait until the run succeeded."""
        self.queue()
        self.wait_for("execution_success", timeout=timeout)

    def seen(self) -> list[dict[str, Any]]:
        """The events since `queue`: [{name, detail}]."""
        return json.loads(self.page.evaluate("JSON.stringify(seen)"))

    def add(self, kind: str, at: tuple[int, int] = (100, 100), **widgets: object) -> int:
        """Put a node on the canvas, its widgets set by name. Gives its id."""
        number = self.page.evaluate(
            """([kind, at]) => {
                const node = LiteGraph.createNode(kind)
                node.pos = at
                app.graph.add(node)
                return node.id
            }""",
            [kind, at],
        )
        self.set(number, **widgets)
        return number

    def set(self, node: int, **widgets: object) -> None:
        """Set a node's widgets by name."""
        self.page.evaluate(
            """([id, widgets]) => {
                for (const [name, value] of Object.entries(widgets)) {
                    const widget = app.graph.getNodeById(id).widgets.find((widget) => widget.name === name)
                    widget.value = value
                    widget.callback?.(value)
                }
            }""",
            [node, widgets],
        )

    def link(self, start: int, output: str, end: int, input: str) -> None:
        """Wire an output of one node to an input of another, both by name."""
        self.page.evaluate(
            """([start, output, end, input]) => {
                const [from, to] = [start, end].map((id) => app.graph.getNodeById(id))
                from.connect(from.findOutputSlot(output), to, to.findInputSlot(input))
            }""",
            [start, output, end, input],
        )

    def node(self, kind: str) -> int:
        """The id of the first node of a type."""
        return self.page.evaluate("kind => app.graph._nodes.find((node) => node.type === kind).id", kind)

    def widget(self, node: int, name: str) -> Any:
        """A widget's value."""
        return self.page.evaluate(
            "([id, name]) => app.graph.getNodeById(id).widgets.find((widget) => widget.name === name).value",
            [node, name],
        )

    def element(self, node: int) -> Locator:
        """A node's own element, which only Nodes 2.0 has."""
        return self.page.locator(f'[data-node-id="{node}"]')

    def show(self, *nodes: int) -> None:
        """Bring these nodes into view, or all if none are given."""
        self.page.evaluate(
            """async (ids) => {
                app.canvas.deselectAll()
                const all = app.graph._nodes.filter((node) => !ids.length || ids.includes(node.id))
                const boxes = all.map((node) => node.boundingRect ?? node.getBounding())
                const [x, y] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])))
                const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])))
                const { width, height } = app.canvasEl.getBoundingClientRect()
                const scale = Math.min(1, (width - 160) / (right - x), (height - 160) / (bottom - y))
                app.canvas.ds.scale = scale
                app.canvas.ds.offset = [width / scale / 2 - (x + right) / 2, height / scale / 2 - (y + bottom) / 2]
                app.canvas.setDirty(true, true)
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
            }""",
            list(nodes),
        )

    def close(self) -> None:
        self.context.close()
