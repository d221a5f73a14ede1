"""ComfyUI's library and this pack in the tests' own process, for what no server shows: patchers, weights, residency.

ComfyUI's modules have names that other tests use too, so these tests run in a process of their own, which
tests/comfy/test_inside.py starts.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PACK = Path(__file__).resolve().parents[2]
TINY = PACK / "tests" / "data" / "tiny_deepseek"

if "JANUS_INSIDE_COMFYUI" not in os.environ:
    collect_ignore_glob = ["test_*.py"]


def import_pack(name: str) -> ModuleType:
    """The pack as ComfyUI imports it: by path, and not under its folder's name."""
    from prepare import comfyui_folder

    sys.path.insert(0, str(comfyui_folder()))
    import utils.install_util  # noqa: F401  (ComfyUI's own, before anything else has a `utils`)
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = tempfile.mkdtemp()
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py", submodule_search_locations=[str(PACK)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pack() -> Callable[[str], Any]:
    """Imports a module of the pack by its name there, such as "nodes.preview"."""
    import_pack("pack")
    return lambda name: importlib.import_module(f"pack.{name}")


@pytest.fixture(scope="session")
def weights(pack: Callable[[str], Any]) -> Any:
    return pack("nodes.host.weights")
