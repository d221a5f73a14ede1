"""Damaged and hostile weight files: each is refused in one clear sentence, and none runs code."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from checkpoint_files import refuses, shard
from safetensors.torch import save_file

import janus_core
from janus_core import CheckpointError


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
@pytest.mark.parametrize("suffix", ["safetensors", "bin", "old bin"])
def test_a_truncated_file_is_refused(copy, state, suffix, share):
    folder = copy()
    path = folder / "model.safetensors"
    if suffix != "safetensors":
        path.unlink()
        path = folder / "pytorch_model.bin"
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "bin")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refuses(folder, f"{path.name} .*fetch it")


@pytest.mark.parametrize("suffix", ["safetensors", "bin", "old bin"])
def test_a_damaged_header_is_refused_whatever_byte_is_wrong(copy, state, suffix):
    """Few tensors, so that even damage nobody can see is refused for what is missing."""
    folder = copy(weights=False)
    few = dict(list(state.items())[:20])
    path = folder / ("model.safetensors" if suffix == "safetensors" else "pytorch_model.bin")
    if suffix == "safetensors":
        save_file(few, path)
    else:
        torch.save(few, path, _use_new_zipfile_serialization=suffix == "bin")
    whole, draw = path.read_bytes(), random.Random(0)  # noqa: S311
    for _ in range(30):
        damaged = bytearray(whole)
        for _ in range(4):
            damaged[draw.randrange(2000)] = draw.randrange(256)
        path.write_bytes(damaged[: draw.choice((len(damaged), draw.randrange(3000)))])
        with pytest.raises(CheckpointError, match=str(path)):
            janus_core.load(folder)


@pytest.mark.parametrize(
    "text", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"<html>404</html>"]
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_or_web_page_in_place_of_the_file(copy, name, text):
    folder = copy(weights=False)
    (folder / name).write_bytes(text)
    refuses(folder, f"{name} .*fetch it")


class Evil:
    """Unpickles by making a file: any code could stand here."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("form", ["zip", "old", "bare pickle", "shard"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(copy, state, tmp_path, form):
    folder, marker = copy(weights=False), tmp_path / "ran"
    hostile = state | {"evil": Evil(marker)}
    path = folder / "pytorch_model.bin"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(marker)))
    elif form == "shard":
        path = shard(folder, state, "bin")[1]
        torch.save(hostile, path)
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "zip")
    refuses(folder, f"{path.name} was refused: .*can run code")
    assert not marker.exists()
    with path.open("rb") as file:  # The trap is live: Python's own loader falls into it.
        pickle.load(file) if form == "bare pickle" else torch.load(file, weights_only=False)  # noqa: S301
    assert marker.exists()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state},
        lambda state: [*state.values()],
        lambda state: state | {7: torch.ones(1)},
        lambda _: 7,
    ],
    ids=["nested", "list", "a key that is no name", "number"],
)
def test_a_pickle_that_is_not_a_table_of_tensors(copy, state, wrap):
    folder = copy(weights=False)
    torch.save(wrap(state), folder / "pytorch_model.bin")
    refuses(folder, "does not hold a plain table of tensors")
