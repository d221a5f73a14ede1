"""One browser, and a page for each pair of frontend and node renderer, on real servers.

Every test that takes `canvas` runs on ComfyUI 0.3.75's own frontend in the classic renderer; those marked
`everywhere` run in the other three pairs too, and those marked `newest` on that frontend instead. Without a Chromium
they do not run, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from canvas import Canvas, launch
from comfy_server import ComfyServer
from furnish import put_inputs, put_upscaler
from playwright.sync_api import Browser, sync_playwright
from prepare import chromium, frontend_folder

PAIRS = [("pinned", "classic"), ("pinned", "nodes2"), ("newest", "classic"), ("newest", "nodes2")]
FRONTENDS = {"pinned": (), "newest": ("--front-end-root", str(frontend_folder()))}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "everywhere: run in both renderers of both frontends")
    config.addinivalue_line("markers", "newest: run on the newest frontend alone")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "canvas" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker
        pairs = PAIRS if marked("everywhere") else PAIRS[2:3] if marked("newest") else PAIRS[:1]
        metafunc.parametrize("canvas_of", pairs, ids="-".join, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Last of all: Playwright's event loop, once started, would stand in the way of those that other tests run."""
    items.sort(key=lambda item: "canvas" in getattr(item, "fixturenames", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if skipped := [report for report in terminalreporter.stats.get("skipped", []) if "browser/" in report.nodeid]:
        terminalreporter.section("browser tests", red=True)
        terminalreporter.line(f"{len(skipped)} NOT RUN: there is no Chromium here; install Debian's, or your system's.")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not chromium():
        pytest.skip("not run: there is no Chromium here")
    with sync_playwright() as playwright, launch(playwright.chromium) as browser:
        yield browser


@pytest.fixture(scope="session")
def servers(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ComfyServer]]:
    """A server for each frontend, started when it is first asked for."""
    with ExitStack() as stack:

        class Servers(dict[str, ComfyServer]):
            def __missing__(self, frontend: str) -> ComfyServer:
                base = tmp_path_factory.mktemp(frontend)
                server = ComfyServer(base, "--preview-method", "auto", *FRONTENDS[frontend])
                put_inputs(base / "input")
                put_upscaler(base / "models" / "upscale_models")
                self[frontend] = stack.enter_context(server)
                return server

        yield Servers()


@pytest.fixture(scope="session")
def canvas_of(request: pytest.FixtureRequest, browser: Browser, servers: dict[str, ComfyServer]) -> Iterator[Canvas]:
    frontend, renderer = request.param
    canvas = Canvas(browser, servers[frontend], renderer == "nodes2")
    yield canvas
    canvas.close()


@pytest.fixture
def canvas(canvas_of: Canvas) -> Iterator[Canvas]:
    """The frontend with an empty workflow and an empty cache; at the end of the test none of our files may have caused an error."""
    canvas_of.server.post("/free", {"free_memory": True})  # what another renderer ran is not to be taken from the cache
    canvas_of.blank()
    canvas_of.errors.clear()
    yield canvas_of
    assert canvas_of.errors == []
