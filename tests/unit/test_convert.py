"""One self-contained file: written from any checkpoint, in any dtype, and loaded alone."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import janus_core
from janus_core import CheckpointError, InputError
from janus_core.__main__ import main
from janus_core.convert import convert
from janus_core.model.quantised import QUANTISED
from janus_core.precision import FLOATS, NAMES
from janus_core.weights.checkpoint import find, metadata_texts
from janus_core.weights.names import split_fused

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny_deepseek"


@pytest.fixture
def alone(tmp_path) -> Callable[..., Path]:
    """A converted checkpoint in an empty folder."""

    def write(checkpoint: Path = TINY, dtype: str = "fp32") -> Path:
        folder = tmp_path / "alone"
        folder.mkdir()
        return convert(checkpoint, folder / f"{dtype}.safetensors", dtype=dtype)

    return write


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def metadata_edited(path: Path, how: Callable[[dict], object]) -> None:
    """Changes the header's metadata, and nothing of the tensors."""
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    how(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])


@pytest.mark.parametrize("checkpoint", [TINY, DATA / "tiny_transformers"], ids=lambda path: path.name)
def test_the_file_alone_draws_and_answers_as_the_folder_did(alone, checkpoint, pictures):
    path = alone(checkpoint)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    one, other = janus_core.load(path), janus_core.load(checkpoint)
    assert torch.equal(one.generate("a red circle").ids, other.generate("a red circle").ids)
    question = {"images": pictures(1), "max_new_tokens": 8}
    assert one.answer("What is it?", **question) == other.answer("What is it?", **question)
    assert janus_core.load(path.parent).codebook == other.codebook  # and by its folder's name


@pytest.mark.parametrize("dtype", NAMES)
def test_a_round_trip_in_the_same_dtype_is_identical_to_the_bit(alone, tmp_path, dtype):
    first = alone(dtype=dtype)
    second = convert(first, tmp_path / "again.safetensors", dtype=dtype)
    assert first.read_bytes() == second.read_bytes()
    assert find(second).dtype == dtype
    loaded = split_fused(janus_core.load(first, dtype=dtype).model.state_dict())
    stored = load_file(first)
    assert loaded.keys() == stored.keys()
    for key, tensor in stored.items():
        wanted = loaded[key].to(tensor.dtype)
        assert torch.equal(bits(tensor.expand_as(wanted)), bits(wanted)), key  # fp8's scale is one for all rows


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_the_tensors_are_those_of_the_source_cast_and_the_unused_are_dropped(alone, copy, dtype):
    folder = copy()
    source = load_file(folder / "model.safetensors")
    source["gen_vision_model.quantize.codebook_used"] = torch.zeros(65536)
    source["vision_model.vision_tower.attn_pool.latent"] = torch.zeros(1, 1, 48)
    save_file(source, folder / "model.safetensors")
    written = load_file(alone(folder, dtype))
    assert source.keys() - written.keys() == {key for key in source if "attn_pool" in key or "codebook_used" in key}
    for key, tensor in written.items():
        half_vq = dtype == "fp16" and key.startswith("gen_vision_model.")  # it overflows in half
        assert tensor.dtype == (torch.float32 if half_vq else FLOATS[dtype])
        assert torch.equal(tensor, source[key].to(tensor.dtype))


@pytest.mark.parametrize("dtype", ["int8", "fp8_e4m3fn"])
def test_only_the_big_linear_layers_have_8_bits(alone, dtype):
    written = load_file(alone(dtype=dtype))
    small = {key for key, tensor in written.items() if tensor.itemsize == 1}
    assert small == {key for key in written if QUANTISED.match(key) and key.endswith("weight") and "norm" not in key}
    assert {f"{key}_scale" for key in small} == {key for key in written if key.endswith("_scale")}
    assert all(
        tensor.dtype == torch.bfloat16
        for key, tensor in written.items()
        if f"{key}_scale" not in written and not key.endswith("_scale")
    )


def test_the_models_name_is_kept_for_its_role_names(copy, tmp_path):
    """Only the folder's name says that a model is Janus-1.3B, with plain roles; a single file has to carry it."""
    folder = copy("Janus-1.3B")
    path = convert(folder, tmp_path / "any.safetensors")
    again = convert(path, tmp_path / "other.safetensors")
    for checkpoint in (folder, path, again):
        assert janus_core.load(checkpoint).processor.roles["user"] == "User"
    assert janus_core.load(convert(TINY, tmp_path / "pro.safetensors")).processor.roles["user"] == "<|User|>"


def test_what_a_file_carries_beats_a_config_beside_it(alone):
    path = alone()
    (path.parent / "config.json").write_text("{}")
    janus_core.load(path)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda texts: texts.pop("config.json"), "has no config.json"),
        (lambda texts: texts.pop("tokenizer.json"), "has no tokenizer.json"),
        (lambda texts: texts.update({"config.json": "{"}), "config.json is not readable JSON"),
        (lambda texts: texts.update({"config.json": "[" * 100_000}), "config.json is not readable JSON"),
        (lambda texts: texts.update({"config.json": '{"model_type": "llava"}'}), "'llava', not Janus"),
        (lambda texts: texts.update({"tokenizer.json": "{}"}), "tokenizer.json is not a readable tokenizer"),
        (lambda texts: texts.update({"tokenizer.json": " " * 33_000_000}), "carries a tokenizer.json of 33 MB"),
        (lambda texts: texts.update({"config.json": {"model_type": "janus"}}), "not a whole safetensors file"),
    ],
)
def test_what_it_carries_is_checked_as_files_are(alone, how, match):
    path = alone()
    metadata_edited(path, how)
    with pytest.raises(CheckpointError, match=match) as caught:
        janus_core.load(path)
    assert str(path.parent) in str(caught.value) and "\n" not in str(caught.value)


def test_only_a_self_contained_file_carries_texts(alone, tmp_path):
    path = alone()
    assert metadata_texts(path).keys() >= {"config.json", "tokenizer.json", "special_tokens_map.json"}
    assert metadata_texts(TINY / "model.safetensors") is None
    (tmp_path / "a.bin").write_bytes(b"")
    assert metadata_texts(tmp_path / "a.bin") is None


def test_a_scale_of_another_shape_is_named(alone):
    path = alone(dtype="int8")
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    state = load_file(path)
    key = "language_model.model.layers.0.mlp.up_proj.weight_scale"
    save_file(state | {key: state[key].flatten()[:7].clone()}, path, texts)
    with pytest.raises(CheckpointError, match=r"up_proj\.weight_scale is \[7\], no scale"):
        janus_core.load(path)


# Writing


@pytest.mark.parametrize(
    ("name", "dtype", "match"),
    [
        ("there.safetensors", "bf16", "is there already"),
        ("new.bin", "bf16", "does not end in .safetensors"),
        ("nowhere/new.safetensors", "bf16", "There is no folder"),
        ("new.safetensors", "int4", "There is no dtype 'int4'"),
    ],
)
def test_what_must_not_be_written_is_refused_and_nothing_is_left(tmp_path, name, dtype, match):
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match=match):
        convert(TINY, tmp_path / name, dtype=dtype)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"mine"]


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(InputError, match=r"0\.0 MB free, and the file takes 3\.9 MB"):
        convert(TINY, tmp_path / "new.safetensors")
    assert not list(tmp_path.iterdir())


def test_stopping_leaves_nothing_behind_and_the_name_comes_last(tmp_path):
    steps = []

    def stop(step: int, total: int, _: None) -> None:
        steps.append((step, total))
        assert not (tmp_path / "new.safetensors").exists() and len(list(tmp_path.iterdir())) == 1
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(TINY, tmp_path / "new.safetensors", progress=stop)
    assert steps == [(i, 414) for i in range(1, 6)] and not list(tmp_path.iterdir())


def test_a_checkpoint_that_would_not_load_is_not_converted(copy, tmp_path):
    folder = copy()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer.json"):
        convert(folder, tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_the_command_line_converts_and_draws_from_the_file(tmp_path, capsys):
    path = tmp_path / "new.safetensors"
    assert main(["convert", str(TINY), str(path), "--dtype", "int8"]) == 0
    assert str(path) in capsys.readouterr().out
    drawing = ["--checkpoint", str(path), "--dtype", "int8", "--output", str(tmp_path / "out"), "--json"]
    assert main(["generate", "a boat", *drawing]) == 0
    ids = json.loads(capsys.readouterr().out)["ids"]
    assert ids == janus_core.load(path, dtype="int8").generate("a boat").ids.tolist()
    assert main(["convert", str(TINY), str(path)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(("dtype", "rows"), [("int8", False), ("fp8_e4m3fn", True)])
def test_scales_in_another_layout_than_ours_are_kept(tmp_path, dtype, rows):
    """One scale for a whole int8 weight, or one for each row in fp8."""
    path = convert(TINY, tmp_path / "ours.safetensors", dtype=dtype)
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    state = load_file(path)
    for key in [key for key in state if key.endswith("_scale")]:
        height = len(state[key.removesuffix("_scale")])
        state[key] = torch.linspace(0.01, 0.02, height)[:, None] if rows else torch.tensor(0.01)
    theirs = tmp_path / "theirs.safetensors"
    save_file(state, theirs, texts)
    again = load_file(convert(theirs, tmp_path / "again.safetensors", dtype=dtype))
    assert again.keys() == state.keys()
    assert all(torch.equal(bits(again[key]), bits(state[key])) for key in state)
    ours, expected = janus_core.load(tmp_path / "again.safetensors", dtype=dtype), janus_core.load(theirs, dtype=dtype)
    assert torch.equal(ours.generate("a red circle").ids, expected.generate("a red circle").ids)
