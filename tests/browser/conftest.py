"""One browser, and a page for each pair of frontend and node renderer, on real servers.

Every test that takes `canvas` runs on ComfyUI 0.3.75's own frontend in the classic renderer. Those marked `both` run on
the newest frontend with Nodes 2.0 too, those marked `newest` only there, and those marked `everywhere` in all four
pairs. Without Chromium they are skipped, and the summary says so.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack

import pytest
from canvas import Canvas, launch
from comfy_server import ComfyServer
from playwright.sync_api import Browser, expect, sync_playwright
from prepare import chromium, frontend_folder
from sample_files import write_checkpoint, write_input_pictures, write_upscaler

OLD, NEW = ("pinned", "classic"), ("newest", "nodes2")
PAIRS = {"both": [OLD, NEW], "newest": [NEW], "everywhere": [OLD, ("pinned", "nodes2"), ("newest", "classic"), NEW]}
expect.set_options(timeout=60_000)
FRONTENDS = {"pinned": (), "newest": ("--front-end-root", str(frontend_folder()))}


def pytest_configure(config: pytest.Config) -> None:
    for name, pairs in PAIRS.items():
        config.addinivalue_line("markers", f"{name}: run in {', '.join(map('-'.join, pairs))}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "canvas" in metafunc.fixturenames:
        marked = [pairs for name, pairs in PAIRS.items() if metafunc.definition.get_closest_marker(name)]
        metafunc.parametrize("canvas_of", *(marked or [[OLD]]), ids="-".join, indirect=True, scope="session")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run browser tests last: Playwright's event loop, once started, blocks the loops of other tests."""
    items.sort(key=lambda item: "canvas" in getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test may leave anything behind, so the next one gets a new page."""
    report = yield
    if report.failed and "canvas_of" in getattr(item, "funcargs", {}):
        item.funcargs["canvas_of"].stale = True
    return report


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
    """A server for each frontend, started on first use."""
    with ExitStack() as stack:

        class Servers(dict[str, ComfyServer]):
            def __missing__(self, frontend: str) -> ComfyServer:
                base = tmp_path_factory.mktemp(frontend)
                server = ComfyServer(base, "--preview-method", "auto", *FRONTENDS[frontend])
                write_input_pictures(base / "input")
                write_upscaler(base / "models" / "upscale_models")
                write_checkpoint(base / "models" / "checkpoints")
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
    """The frontend with an empty workflow and an empty cache. Fails if this pack's files caused a console error."""
    if canvas_of.stale:
        canvas_of.renew()
    canvas_of.server.post("/free", {"free_memory": True})  # so that nothing comes from the cache of an earlier run
    canvas_of.blank()
    canvas_of.errors.clear()
    yield canvas_of
    assert canvas_of.errors == []
