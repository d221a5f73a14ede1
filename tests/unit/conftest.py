"""The tiny Janus in two precisions, and copies of its folder to damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import janus_core
from janus_core.generation import recorder

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"


@pytest.fixture(scope="session")
def janus() -> janus_core.Janus:
    return janus_core.load(TINY)


@pytest.fixture(scope="session")
def janus64() -> janus_core.Janus:
    """In float64, where rounding never decides a draw: laws about equal ids then hold exactly."""
    return janus_core.load(TINY, dtype=torch.float64)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny checkpoint, without its weights if asked to, into a folder of the test's own."""

    def make(name: str = "tiny", weights: bool = True) -> Path:
        ignore = None if weights else shutil.ignore_patterns("*.safetensors")
        return shutil.copytree(TINY, tmp_path / name, ignore=ignore)

    return make


@pytest.fixture
def edit() -> Callable[..., None]:
    """Changes a JSON file: `edit(path, lambda value: ...)` on the parsed value."""

    def change(path: Path, how: Callable[[dict], object]) -> None:
        value = json.loads(path.read_text(encoding="utf-8"))
        how(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    return change


@pytest.fixture
def pictures() -> Callable[..., torch.Tensor]:
    """Random pictures, float [N, side, side, 3] in 0..1."""

    def make(count: int = 1, side: int = 96, seed: int = 0) -> torch.Tensor:
        return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """The tiny checkpoint's tensors, as its file has them."""
    return load_file(TINY / "model.safetensors")


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list:
    """Grows by one with each graph that is captured."""
    made: list = []
    capture = recorder._capture
    monkeypatch.setattr(recorder, "_capture", lambda *args: made.append(capture(*args)) or made[-1])
    return made


@pytest.fixture
def album(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder of different pictures, of which some are damaged."""

    def make(count: int, damaged: tuple[int, ...] = ()) -> Path:
        folder = tmp_path / "album"
        (folder / "more").mkdir(parents=True)
        for i in range(count):
            path = folder / ("more" if i % 3 == 2 else "") / f"{i:03}.png"
            Image.effect_noise((40 + i, 60), 40 + i).convert("RGB").save(path)
            if i in damaged:
                path.write_bytes(path.read_bytes()[: 60 + i] if i % 2 else b"no picture")
        return folder

    return make
