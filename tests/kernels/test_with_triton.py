"""Runs the tests in this folder, which need Triton: its interpreter, or its compiler. None needs a GPU."""

import os
import sys

import pytest
from own_process import run_tests
from prepare import triton_folder


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux")
@pytest.mark.parametrize(
    ("tests", "interpreted"),
    [
        ("test_numbers.py", "1"),
        ("test_bounds.py", "1"),
        ("test_self_check.py", "1"),
        ("test_compiling.py", "0"),
        ("test_launches.py", "0"),
    ],
)
def test_kernels(tests: str, interpreted: str) -> None:
    paths = os.pathsep.join(filter(None, (str(triton_folder()), os.environ.get("PYTHONPATH"))))
    run_tests(f"kernels/{tests}", PYTHONPATH=paths, TRITON_INTERPRET=interpreted)
