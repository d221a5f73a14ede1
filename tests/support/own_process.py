"""Tests that need a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]


def run_tests(path: str, *options: str, **environment: str) -> None:
    """Run pytest in a new process on `path` below tests/, with additions to its environment; fails if it fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", *options, str(PACK / "tests" / path)]
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        command, env=os.environ | environment, cwd=PACK, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
