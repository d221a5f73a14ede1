"""What a user sees while a node runs: the progress bar, preview frames, words of an answer; and the user's interrupt."""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.utils
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from PIL import Image

from ...janus_core import Janus

Progress = Callable[[int, int, Any], None]
MIN_INTERVAL = 0.2  # seconds between two progress messages, as sending them takes time from the work
NOTHING = ExecutionBlocker(None)  # an output that has no value: what is behind it does not run
MAX_OUTPUTS = 5  # words of an answer are sent so often in any second: the first ones at once


def raise_if_interrupted(*_: object) -> None:
    """A `progress` of the core that shows nothing: raises when the user has pressed interrupt."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress(
    run: int = 0, runs: int = 1, *, preview: Callable[[int, int, Any], Image.Image | None] | None = None
) -> Progress:
    """A `progress` of the core that moves the node's bar and raises when the user has pressed interrupt.

    The node makes `runs` equal calls of the core, and this is the one with index `run`. `preview` is called with the same
    arguments and returns a frame to show, or None.
    """
    bar, last_sent = comfy.utils.ProgressBar(runs), 0.0

    def report(step: int, total: int, tokens: Any) -> None:
        nonlocal last_sent
        raise_if_interrupted()
        frame = preview(step, total, tokens) if preview else None
        now = time.monotonic()
        if frame or step == total or now - last_sent >= MIN_INTERVAL:
            last_sent = now
            bar.update_absolute(run * total + step, runs * total, frame and _jpeg(frame))

    return report


def count_progress() -> Callable[[int, int], None]:
    """A `progress` of the core, for work that is counted in pictures, that moves the bar and raises as `progress` does."""
    report = progress()
    return lambda done, total: report(done, total, None)


def answer_progress(core: Janus, show: Callable[[str], object], *, run: int = 0, runs: int = 1) -> Progress:
    """`answers_progress` for one answer: `show(the answer so far)`."""
    return answers_progress(core, lambda answers: show(answers[0]), run=run, runs=runs)


def answers_progress(core: Janus, show: Callable[[list[str]], object], *, run: int = 0, runs: int = 1) -> Progress:
    """`progress` for answers, which also calls `show(the answers so far)`.

    It is called MAX_OUTPUTS times a second at most, and once more when they are complete.
    """
    move_bar, sent = progress(run, runs), deque([-math.inf] * MAX_OUTPUTS, MAX_OUTPUTS)

    def report(step: int, total: int, ids: list[list[int]]) -> None:
        move_bar(step, total, ids)
        now = time.monotonic()
        complete = step == total or all(len(row) < step for row in ids)  # an answer's last token is none of its words
        if not complete and now - sent[0] < 1:
            return
        sent.append(now)
        show([core.processor.decode(row) for row in ids])

    return report


def show_output(node: str, output: dict[str, Any]) -> None:
    """Send a node's output so far to the browser that queued this run."""
    server = _server()
    if server and server.client_id is not None:  # None (queued by no canvas) would send to all
        data = {"node": node, "output": output, "prompt_id": server.last_prompt_id}
        server.send_sync("janus.output", data, server.client_id)


def show_frame(frame: Image.Image) -> None:
    """Show the last preview frame."""
    comfy.utils.ProgressBar(1).update_absolute(1, 1, _jpeg(frame))


def send_text(text: str) -> None:
    """Show text on the node that is running, which may be another pack's, until its run ends."""
    server, running = _server(), get_executing_context()
    if server and running and server.client_id is not None:
        server.send_progress_text(text, running.node_id, server.client_id)


def preview_method() -> str:
    """The --preview-method of this ComfyUI: "none", "auto", "latent2rgb" or "taesd"."""
    return comfy.cli_args.args.preview_method.value


def add_prompt_handler(handler: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Pass every request to run a workflow through `handler` before it is queued."""
    _server().add_on_prompt_handler(handler)


def node_class(kind: str) -> Any:
    """The class of an installed node of this type, or None."""
    import nodes  # ComfyUI's module, which brings all of its nodes

    return nodes.NODE_CLASS_MAPPINGS.get(kind)  # pyright: ignore[reportAttributeAccessIssue] (it finds our own folder)


def _jpeg(frame: Image.Image) -> tuple[str, Image.Image, int]:
    return "JPEG", frame, max(frame.size)


def _server() -> Any:
    """ComfyUI's server, or None without one. Imported here, since the module brings all of ComfyUI's nodes with it."""
    from server import PromptServer

    return getattr(PromptServer, "instance", None)
