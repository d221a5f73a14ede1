"""Starts a real ComfyUI with this checkout as a custom node, talks to it over HTTP and websocket, and stops it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import requests
from PIL import Image
from prepare import comfyui_folder
from typing_extensions import Self

PACK = Path(__file__).resolve().parents[2]
NAME = "janus-nodes"  # the folder's name in custom_nodes
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models")
ENDS = ("execution_success", "execution_error", "execution_interrupted")
# Threads do not help tiny models, and slow them down on a busy machine.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"} | os.environ
Graph = dict[str, dict[str, Any]]
Message = dict[str, Any]


def shipped(name: str) -> Graph:
    """A workflow of `workflows/api/`."""
    return json.loads((PACK / "workflows" / "api" / f"{name}.json").read_text())


def node_of(graph: Graph, class_type: str) -> str:
    """The id of the first node of a type."""
    return next(number for number, node in graph.items() if node["class_type"] == class_type)


@dataclass
class Run:
    """The result of one prompt: its messages, the number of previews, and each node's entry in the history."""

    messages: list[Message] = field(default_factory=list)
    previews: int = 0
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def end(self) -> str:
        """One of ENDS, or "rejected" when the prompt did not pass ComfyUI's validation."""
        return self.messages[-1]["type"]

    @property
    def error(self) -> str:
        """The sentence the user reads."""
        data = self.messages[-1]["data"]
        if self.end == "rejected":
            return "; ".join(f"{e['message']}: {e['details']}" for n in data.values() for e in n["errors"])
        return data["exception_message"].strip()

    def progress(self, node: str) -> list[tuple[int, int]]:
        """(value, max) of each progress message of a node."""
        found = (m["data"] for m in self.messages if m["type"] == "progress")
        return [(data["value"], data["max"]) for data in found if data["node"] == node]

    def executed(self) -> set[str]:
        """The nodes that ran; ComfyUI took the others from its cache."""
        found = (m["data"]["node"] for m in self.messages if m["type"] == "executing")
        return {node for node in found if node is not None}


class ComfyServer:
    """`with ComfyServer(folder) as server:` runs ComfyUI on the CPU with `folder` as its base directory.

    `arguments` go to ComfyUI's command line, `environment` is added to its environment.
    """

    def __init__(self, base: Path, *arguments: str, **environment: str):
        self.base = base
        self.log = base / "server.log"
        self.arguments = arguments
        self.environment = ENVIRONMENT | environment
        for name in FOLDERS:
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / NAME).symlink_to(PACK, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Self:
        command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", self.address.split(":")[-1]]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--base-directory", str(self.base)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 (our own interpreter)
                [*command, *self.arguments],
                cwd=comfyui_folder(),
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_up(time.monotonic() + 180)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_up(self, deadline: float) -> None:
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get("/object_info/JanusLoader").json():
                    return
                break
            except requests.ConnectionError:
                time.sleep(0.1)
        raise RuntimeError(f"ComfyUI did not start with this pack; its log says:\n{self.log.read_text()[-8000:]}")

    def get(self, path: str) -> requests.Response:
        """GET an address of the server. Raises requests.HTTPError."""
        response = requests.get(f"{self.address}{path}", timeout=30)
        response.raise_for_status()
        return response

    def post(self, path: str, data: Any = None) -> requests.Response:
        """POST JSON; the caller looks at the status."""
        return requests.post(f"{self.address}{path}", json=data, timeout=30)

    def run(
        self, graph: Graph, on_message: Callable[[Message], object] | None = None, timeout: float | None = 120
    ) -> Run:
        """Queue an API-format graph and wait for its end; `on_message` gets each message."""
        return asyncio.run(asyncio.wait_for(self._run(graph, on_message or (lambda message: None)), timeout))

    async def _run(self, graph: Graph, on_message: Callable[[Message], object]) -> Run:
        run, client = Run(), uuid.uuid4().hex
        async with aiohttp.ClientSession(self.address) as session, session.ws_connect(f"/ws?clientId={client}") as ws:
            async with session.post("/prompt", json={"prompt": graph, "client_id": client}) as response:
                answer = await response.json()
            if response.status != 200:
                errors = answer["node_errors"] or {"": {"errors": [answer["error"]]}}
                run.messages.append({"type": "rejected", "data": errors})
                return run
            prompt_id = answer["prompt_id"]
            while not run.messages or run.end not in ENDS:
                frame = await ws.receive()
                if frame.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR):
                    raise ConnectionError(f"ComfyUI stopped; its log ends with:\n{self.log.read_text()[-4000:]}")
                run.previews += frame.type is aiohttp.WSMsgType.BINARY
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    continue
                message = json.loads(frame.data)
                if message["data"].get("prompt_id") == prompt_id:
                    run.messages.append(message)
                    on_message(message)
        while not (history := self.get(f"/history/{prompt_id}").json()):  # it may lag behind the last message
            await asyncio.sleep(0.02)
        run.outputs = history[prompt_id]["outputs"]
        return run

    def pictures(self, run: Run, node: str) -> list[Image.Image]:
        """The pictures a node saved or previewed."""
        files = run.outputs[node]["images"]
        addresses = ("/view?" + "&".join(f"{key}={value}" for key, value in file.items()) for file in files)
        return [Image.open(io.BytesIO(self.get(address).content)) for address in addresses]

    def forget(self) -> None:
        """Make ComfyUI unload all models and drop its cached outputs, and wait until that is done."""
        probe: Graph = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
        }
        probe["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
        self.run(probe)
        self.post("/free", {"unload_models": True, "free_memory": True})
        while "1" not in self.run(probe).executed():
            time.sleep(0.02)
