"""Fused layers: tensors that files store apart are one weight in the model, compute the same, and are written apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import janus_core
from janus_core.convert import convert
from janus_core.weights.checkpoint import find
from janus_core.weights.loading import load_model
from janus_core.weights.names import FUSED, split_fused, tensor_slices
from janus_core.weights.saving import save_weights

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny_deepseek"
LAYER = "language_model.model.layers.1."


def test_each_part_of_a_fused_weight_is_the_files_tensor(janus):
    stored = load_file(TINY / "model.safetensors")
    state = janus.model.state_dict()
    assert {key.rsplit(".", 2)[1] for key in state.keys() - stored.keys()} == set(FUSED)
    apart = split_fused(state)
    assert all(torch.equal(tensor, stored[key].view_as(tensor)) for key, tensor in apart.items())
    assert tensor_slices(state)[LAYER + "self_attn.v_proj.weight"] == (LAYER + "self_attn.qkv_proj.weight", (128, 64))
    assert tensor_slices(state)[LAYER + "mlp.up_proj.weight"] == (LAYER + "mlp.gate_up_proj.weight", (176, 176))


@torch.no_grad()
@pytest.mark.parametrize(("name", "tolerance"), [("janus64", 1e-12), ("janus", 1e-5)])
def test_fused_layers_compute_what_the_parts_would(request, name, tolerance):
    janus = request.getfixturevalue(name)
    layer, apart = janus.model.language_model.model.layers[1], split_fused(janus.model.state_dict())
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0), dtype=janus.dtype)
    part = {p: F.linear(x, apart[f"{LAYER}{p}.weight"]) for p in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"
    )}  # fmt: skip
    three = layer.self_attn.qkv_proj(x).split(64, dim=-1)
    for mine, p in zip(three, "qkv", strict=True):
        torch.testing.assert_close(mine, part[f"self_attn.{p}_proj"], rtol=0, atol=tolerance)
    expected = F.linear(F.silu(part["mlp.gate_proj"]) * part["mlp.up_proj"], layer.mlp.down_proj.weight)
    torch.testing.assert_close(layer.mlp(x), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", ["int8", "fp8_e4m3fn"])
@pytest.mark.parametrize("converted", [True, False], ids=["file of 8 bits", "file of floats"])
def test_8_bit_layers_keep_the_scale_of_each_part(tmp_path, dtype, converted):
    stored = load_file(convert(TINY, tmp_path / "small.safetensors", dtype=dtype))
    model = load_model(find(tmp_path / "small.safetensors" if converted else TINY), dtype=dtype)
    apart = split_fused(model.state_dict())
    assert apart.keys() == stored.keys()
    for key, tensor in apart.items():
        assert torch.equal(tensor.float(), stored[key].float().expand_as(tensor)), key
    scales = [stored[f"{LAYER}self_attn.{p}_proj.weight_scale"] for p in "qk"]
    assert not torch.equal(*scales)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_converted_file_is_mapped_and_its_fused_layers_are_views_of_it(tmp_path, dtype):
    path = convert(TINY, tmp_path / "whole.safetensors", dtype=dtype)
    tensors = load_model(find(path), dtype=dtype).language_model.model.layers.state_dict().values()
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors} == {
        next(iter(tensors)).untyped_storage().data_ptr()
    }
    assert next(iter(tensors)).untyped_storage().nbytes() == path.stat().st_size


def test_a_file_with_tensors_at_odd_offsets_loads(tmp_path):
    path = convert(TINY, tmp_path / "even.safetensors", dtype="fp32")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    odd = tmp_path / "odd.safetensors"
    odd.write_bytes((size + 1).to_bytes(8, "little") + content[8 : 8 + size] + b" " + content[8 + size :])
    even, read = (load_model(find(file)).state_dict() for file in (path, odd))
    assert all(torch.equal(tensor, read[key]) for key, tensor in even.items())


@pytest.mark.parametrize("folder", ["tiny_deepseek", "tiny_transformers"])
def test_what_training_writes_has_deepseeks_names_and_loads_again(tmp_path, folder):
    model = janus_core.load(DATA / folder).model
    save_weights(model, tmp_path, torch.float32)
    written = load_file(tmp_path / "model.safetensors")
    assert f"{LAYER}self_attn.q_proj.weight" in written
    assert not any(layer in key for key in written for layer in FUSED)
    assert all(torch.equal(written[key], tensor) for key, tensor in split_fused(model.state_dict()).items())
