"""Damaged and hostile weight files: each is refused in one clear sentence, and none runs code."""

from __future__ import annotations

import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_files import refuses, shard
from safetensors.torch import save_file

import janus_core
from janus_core import CheckpointError
from janus_core.errors import first_few, shown
from janus_core.weights.tensor_files import open_weights


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


KEY = "language_model.model.norm.weight"
PICKLES_OF_NO_PLAIN_TENSORS = {
    "one number repeated": lambda: torch.zeros(1).expand(2**28),
    "one row repeated": lambda: torch.zeros(1, 2**10).expand(2**18, -1),
    "no memory": lambda: torch.zeros(64, device="meta"),
    "sparse": lambda: torch.eye(64).to_sparse(),
    "compressed": lambda: torch.eye(64).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "complex": lambda: torch.ones(64, dtype=torch.complex64),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", PICKLES_OF_NO_PLAIN_TENSORS)
@pytest.mark.filterwarnings("ignore")  # some of these kinds are themselves deprecated
def test_a_pickle_with_tensors_that_are_not_plain_is_refused(copy, state, kind):
    """A number that its strides repeat would make 1.6 GB of a file of 4 MB."""
    folder = copy(weights=False)
    torch.save(state | {KEY: PICKLES_OF_NO_PLAIN_TENSORS[kind]()}, folder / "pytorch_model.bin")
    refuses(folder, "pytorch_model.bin was refused")


def test_a_pickle_with_tensors_that_share_or_turn_their_storage_loads(copy, state):
    folder = copy(weights=False)
    key = next(key for key in state if state[key].ndim == 2)
    torch.save(state | {key: state[key].T.contiguous().T}, folder / "pytorch_model.bin")
    janus_core.load(folder)


def test_a_packed_pickle_is_refused_unread(copy, state):
    """Packed, 1.5 GB of zeros are a file of 1.5 MB."""
    folder = copy(weights=False)
    path = folder / "pytorch_model.bin"
    torch.save(state, path)
    with zipfile.ZipFile(path) as plain:
        entries = {entry.filename: plain.read(entry) for entry in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    refuses(folder, "pytorch_model.bin was refused: it has packed entries")


def test_a_pickle_with_a_list_of_tensors_too_long_to_read_is_refused(copy):
    folder = copy(weights=False)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", bytes(40_000_000))
    refuses(folder, "a list of tensors of 40 MB")


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)")]
)
def test_a_pickle_larger_than_memory_is_not_called_damaged(copy, state, monkeypatch, error):
    folder = copy(weights=False)
    torch.save(state, folder / "pytorch_model.bin")

    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", load)
    assert "cut short" not in refuses(folder, "asks for more memory than this machine has")


# Safetensors


def write_header(path: Path, header: object, data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def tensor(start: int = 0, end: int = 8, shape: object = (2,), dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ([], 0),
        ({"a": 5}, 8),
        ({"a": {}}, 8),
        ({"a": tensor(dtype="F31")}, 8),
        ({"a": tensor(dtype=["F32"])}, 8),
        ({"a": tensor(shape=[3])}, 8),
        ({"a": tensor(shape=[-1, -2])}, 8),
        ({"a": tensor(shape=[2.0])}, 8),
        ({"a": tensor(shape=[True, 2])}, 8),
        ({"a": tensor(shape="2")}, 8),
        ({"a": tensor(shape=[2] + [1] * 1000)}, 8),
        ({"a": tensor(shape=[2**62, 2**62, 0], end=0)}, 8),
        ({"a": tensor(start=8, end=0)}, 8),
        ({"a": tensor(start=-8, end=0)}, 8),
        ({"a": tensor()}, 9),
        ({"a": tensor()}, 7),
        ({"a": tensor(), "b": tensor()}, 8),
        ({"a": tensor(), "b": tensor(12, 20)}, 20),
        ({"a": tensor(4, 12)}, 12),
        ({"a": tensor(), "__metadata__": {"a": 5}}, 8),
        ({"a": tensor(), "__metadata__": "a"}, 8),
        ({"a\n" * 10_000: tensor(dtype="F31")}, 8),
        ({str(i): tensor(shape=[0], end=0) for i in range(100_001)}, 0),
    ],
)
def test_a_safetensors_header_that_does_not_fit_is_refused(copy, header, size):
    folder = copy(weights=False)
    write_header(folder / "model.safetensors", header, bytes(size))
    assert len(refuses(folder, "model.safetensors is not a whole safetensors file .*fetch it")) < 600


@pytest.mark.parametrize("length", [0, 1, 2**40, 2**63, 2**64 - 1])
def test_a_safetensors_header_of_a_wrong_length_is_refused(copy, length):
    folder = copy(weights=False)
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + b"{}")
    refuses(folder, "model.safetensors is not a whole safetensors file .*fetch it")


def test_tensors_of_every_type_read_as_safetensors_wrote_them_at_any_offset(tmp_path):
    path = tmp_path / "a.safetensors"
    types = [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.int64, torch.bool]
    saved = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in types}
    saved |= {"none": torch.zeros(0, 3), "one": torch.tensor(7.0)}
    save_file(saved, path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for shift in range(9):  # more spaces after the header
        path.write_bytes(
            (length + shift).to_bytes(8, "little") + whole[8 : 8 + length] + b" " * shift + whole[8 + length :]
        )
        found = open_weights((path,))
        assert found.keys() == saved.keys()
        for name, expected in saved.items():
            assert found[name].dtype == expected.dtype and found[name].shape == expected.shape
            assert torch.equal(found[name].double(), expected.double())


def test_a_file_larger_than_memory_and_swap_opens(tmp_path):
    """Its pages are read when they are used, and no memory is set aside for them."""
    path, size = tmp_path / "a.safetensors", 2**40
    write_header(path, {"a": tensor(0, size, shape=[size // 4])})
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size + size)
    assert open_weights((path,))["a"][-5:].tolist() == [0] * 5


# What stands in place of a file


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "mine.safetensors", "config.json", "tokenizer.json"]
)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_folder_or_pipe_in_place_of_a_file_is_refused(copy, name, make: Callable[[Path], None]):
    folder = copy(weights=name.endswith(".json"))
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    refuses(folder, "no weight file|has no")


def test_opening_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="not a file"):
        open_weights((tmp_path / "a.safetensors",))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_a_text_file_of_gigabytes_is_refused_unread(copy, name):
    folder = copy()
    with (folder / name).open("r+b") as file:
        file.truncate(2**33)
    refuses(folder, f"carries a {name} of 8590 MB, more than the limit")


@pytest.mark.parametrize("name", ["a" * 300, "é" * 200, "a\nb.safetensors", "a\0b", "\ud83d", "a\x1b[2Jb"])
def test_an_index_with_shard_names_that_are_no_file_names_is_refused(copy, name):
    folder = copy(weights=False)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refuses(folder, "no usable weight_map")


def test_of_many_missing_shards_a_few_are_named(copy):
    folder = copy(weights=False)
    weight_map = {str(i): f"{i:05}.safetensors" for i in range(10_000)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refuses(folder, "lacks 00000.safetensors, 00001.safetensors, 00002.safetensors and 9997 more, which")


def test_what_a_stranger_wrote_is_quoted_short_and_on_one_line():
    assert shown("model.layers.0") == "model.layers.0"
    assert shown("a\nb\x1b[2J\ud83d") == r"a\nb\x1b[2J\ud83d"
    assert len(shown("a" * 10_000)) == len(shown("\n" * 150)) == 200 and shown("a" * 10_000).endswith("a…")
    assert len(first_few(["\n" * 10_000] * 10_000)) < 500
