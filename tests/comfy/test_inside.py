"""Runs tests/inside, which live in one process with ComfyUI's library."""

from own_process import run_tests


def test_in_one_process_with_comfyui() -> None:
    run_tests("inside", "-x", JANUS_INSIDE_COMFYUI="1")
