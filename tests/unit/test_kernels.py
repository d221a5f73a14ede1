"""Runs tests/kernels, which want Triton: once by its interpreter, once compiled. Neither needs a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prepare import triton_folder

PACK = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux")
@pytest.mark.parametrize(("tests", "interpreted"), [("test_numbers.py", "1"), ("test_compiling.py", "0")])
def test_kernels(tests: str, interpreted: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-s", str(PACK / "tests" / "kernels" / tests)]
    paths = os.pathsep.join(filter(None, (str(triton_folder()), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": paths, "TRITON_INTERPRET": interpreted}
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        command, env=environment, cwd=PACK, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
