"""The most memory that a process had of its own at once."""

from __future__ import annotations

import threading
import time

from janus_core.bench.loading import process_memory


class AnonymousPeak(threading.Thread):
    """Samples RssAnon from its start on: the kernel keeps no peak of it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = 0

    def run(self) -> None:
        while True:
            self.bytes = max(self.bytes, process_memory("RssAnon"))
            time.sleep(0.01)
