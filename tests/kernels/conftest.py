"""The Triton kernels. test_with_triton.py starts the other files in processes that have Triton and its settings."""

import os

if "TRITON_INTERPRET" not in os.environ:
    collect_ignore = [
        "test_numbers.py",
        "test_bounds.py",
        "test_self_check.py",
        "test_launches.py",
        "test_compiling.py",
    ]
