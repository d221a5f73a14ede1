"""On a machine without a Chromium."""

import os
import subprocess
import sys

from comfy_server import PACK


def test_the_browser_tests_are_reported_as_not_run() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/browser/test_finding.py"],
        cwd=PACK,
        env=os.environ | {"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "6 NOT RUN: there is no Chromium here" in run.stdout
    assert "6 skipped" in run.stdout and "passed" not in run.stdout
    assert run.returncode == 0
