"""Runs tests/inside, which live in one process with ComfyUI's library."""

import os
import subprocess
import sys

from comfy_server import PACK


def test_in_one_process_with_comfyui() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-s", str(PACK / "tests" / "inside")]
    environment = os.environ | {"JANUS_INSIDE_COMFYUI": "1"}
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        command, env=environment, cwd=PACK, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
