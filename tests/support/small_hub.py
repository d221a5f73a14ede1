"""A local server with the part of Hugging Face's API that downloads use. It can be made to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".bin", ".safetensors")
PIECE = 1 << 20


@dataclass
class Trouble:
    """What goes wrong, and at which byte. Nothing by default."""

    status: int = 200  # of every answer
    cut_at: int | None = None  # close the connection at this byte of a large file, once
    stall_at: int | None = None  # send nothing after this byte until `over` is set
    flip_at: int | None = None  # send this byte of a large file with one bit wrong
    listed_larger: int = 0  # added to the size of large files in the listing
    retry_after: int | None = None  # answer requests for large files with "too many requests" and this header
    flip_small: bool = False  # send files that are not large with one bit wrong
    listing: object = None  # this JSON in place of the list of files
    over: threading.Event = field(default_factory=threading.Event)


class SmallHub:
    """`with SmallHub() as hub:` serves `hub.repos`, {repository: {file: content}}, and records the requests."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str | None]] = []  # (path, the Range header)
        self.trouble = Trouble()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.trouble.over.set()
        self._server.shutdown()
        self._server.server_close()

    def ranges(self, name: str) -> list[str | None]:
        """The Range header of each request for a large file's content."""
        return [part for path, part in self.asked if path.startswith("/content/") and path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_GET(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append((path, self.headers["Range"]))
        if hub.trouble.status != 200:
            self._answer(hub.trouble.status, b"no")
        elif listing := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            self._list(listing[1])
        elif file := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/([^/]+)", path):
            if hub.trouble.retry_after is not None and file[2].endswith(LARGE):
                self._answer(429, b"too many", **{"Retry-After": str(hub.trouble.retry_after)})
            elif file[2].endswith(LARGE):  # the real hub serves those from another host
                self._answer(302, b"", Location=f"{hub.address}/content/{file[1]}/{file[2]}")
            else:
                content = hub.repos[file[1]][file[2]]
                self._answer(200, bytes([content[0] ^ 1]) + content[1:] if hub.trouble.flip_small else content)
        elif file := re.fullmatch(r"/content/([^/]+/[^/]+)/([^/]+)", path):
            self._send_large(hub.repos[file[1]][file[2]])
        else:
            self._answer(404, b"nothing here")

    def _list(self, repo: str) -> None:
        if self.hub.trouble.listing is not None:
            return self._answer(200, json.dumps(self.hub.trouble.listing).encode())
        if repo not in self.hub.repos:
            return self._answer(404, b"no such repository")
        files = []
        for name, content in self.hub.repos[repo].items():
            size = len(content) + self.hub.trouble.listed_larger * name.endswith(LARGE)
            blob = b"blob %d\0%b" % (len(content), content)  # as Git names it
            entry = {"rfilename": name, "size": size, "blobId": hashlib.sha1(blob, usedforsecurity=False).hexdigest()}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
            files.append(entry)
        self._answer(200, json.dumps({"id": repo, "sha": COMMIT, "siblings": files}).encode())

    def _send_large(self, content: bytes) -> None:
        trouble = self.hub.trouble
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        for at in range(start, len(content), PIECE):
            piece = bytearray(content[at : at + PIECE])
            if trouble.flip_at is not None and at <= trouble.flip_at < at + PIECE:
                piece[trouble.flip_at - at] ^= 1
            if trouble.cut_at is not None and at >= trouble.cut_at:
                trouble.cut_at = None
                self.close_connection = True
                return
            if trouble.stall_at is not None and at >= trouble.stall_at:
                trouble.over.wait()
            try:
                self.wfile.write(piece)
            except ConnectionError:  # the client hung up
                self.close_connection = True
                return

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
