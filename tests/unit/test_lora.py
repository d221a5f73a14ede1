"""LoRA files: every spelling finds its weight, and what does not fit is refused with one sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import janus_core
from janus_core import CheckpointError
from janus_core.weights.lora import Target, lora_targets, read_lora

LAYER = "language_model.model.layers.1.self_attn.q_proj"
FUSED = "language_model.model.layers.1.self_attn.qkv_proj"
RANK = 4


def tensors(layer: str, out: int = 64, width: int = 64, up: str = "lora_B", down: str = "lora_A") -> dict:
    return {f"{layer}.{up}.weight": torch.randn(out, RANK), f"{layer}.{down}.weight": torch.randn(RANK, width)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my_lora.safetensors"


@pytest.mark.parametrize(
    "layer",
    [
        LAYER,
        f"base_model.model.{LAYER}",
        "base_model.model.model.layers.1.self_attn.q_proj",  # the language model trained by itself
        "base_model.model.model.language_model.layers.1.self_attn.q_proj",  # transformers' Janus
    ],
)
def test_peft_names(janus: janus_core.Janus, path: Path, layer: str) -> None:
    saved = tensors(layer)
    save_file(saved, path)
    (found,) = read_lora(path, janus.model)
    assert found.target == Target(f"{FUSED}.weight", (0, 64), (64, 64))
    assert torch.equal(found.up, saved[f"{layer}.lora_B.weight"])
    assert torch.equal(found.down, saved[f"{layer}.lora_A.weight"])
    assert found.scale == 1


@pytest.mark.parametrize("prefix", ["lora_unet_language_model_model_", "lora_te_language_model_model_", "lora_te_"])
def test_kohya_names_and_alpha(janus: janus_core.Janus, path: Path, prefix: str) -> None:
    layer = f"{prefix}layers_1_self_attn_q_proj"
    save_file(tensors(layer, up="lora_up", down="lora_down") | {f"{layer}.alpha": torch.tensor(2.0)}, path)
    (found,) = read_lora(path, janus.model)
    assert found.target.key == f"{FUSED}.weight"
    assert found.scale == 2 / RANK


def test_every_linear_layer_but_the_vq_can_be_named(janus: janus_core.Janus) -> None:
    linear = {
        f"{name}.weight"
        for name, module in janus.model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("gen_vision_model")
    }
    assert {target.key for target in lora_targets(janus.model).values()} == linear


def test_the_parts_of_a_stacked_weight(janus: janus_core.Janus) -> None:
    parts = [lora_targets(janus.model)[f"model.vision_model.encoder.layers.0.self_attn.{p}_proj"] for p in "qkv"]
    key = "vision_model.vision_tower.blocks.0.attn.qkv.weight"
    assert parts == [Target(key, (start, 48), (48, 48)) for start in (0, 48, 96)]


@pytest.mark.parametrize(
    ("layer", "rows"), [("self_attn.k_proj", (64, 64)), ("mlp.gate_proj", (0, 176)), ("mlp.up_proj", (176, 176))]
)
def test_fused_layers_are_found_by_their_parts_in_both_spellings(janus, layer: str, rows: tuple[int, int]) -> None:
    fused = "mlp.gate_up_proj" if layer.startswith("mlp") else "self_attn.qkv_proj"
    key = f"language_model.model.layers.0.{fused}.weight"
    for name in (f"language_model.model.layers.0.{layer}", f"model.language_model.layers.0.{layer}"):
        assert lora_targets(janus.model)[name] == Target(key, rows, (rows[1], 64))


@pytest.mark.parametrize(("extra", "scale"), [({}, 16 / RANK), ({"use_rslora": True}, 16 / RANK**0.5)])
def test_alpha_from_pefts_config(janus: janus_core.Janus, path: Path, extra: dict, scale: float) -> None:
    save_file(tensors(f"base_model.model.{LAYER}"), path)
    (path.parent / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 16, **extra}))
    (found,) = read_lora(path, janus.model)
    assert found.scale == scale


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"r": 8, "lora_alpha": 16}, "rank 8 where the LoRA beside it has 4"),
        ({"r": RANK}, "no usable lora_alpha"),
        ({"r": RANK, "lora_alpha": 10**400}, "no usable lora_alpha"),
        ({"r": RANK, "lora_alpha": float("nan")}, "no usable lora_alpha"),
        ({"r": RANK, "lora_alpha": 16, "alpha_pattern": {"q_proj": 3}}, "alpha or rank per layer"),
    ],
)
def test_pefts_config_that_cannot_be_meant(janus: janus_core.Janus, path: Path, config: dict, expected: str) -> None:
    save_file(tensors(f"base_model.model.{LAYER}"), path)
    (path.parent / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=expected):
        read_lora(path, janus.model)


HEAD = "gen_head.vision_head"
WHOLE = tensors(LAYER)
REFUSED = {
    "another model's names": (
        {f"lora_unet_input_blocks_{i}_attn.lora_up.weight": torch.ones(4, 4) for i in range(5)},
        r"5 tensors that this Janus has no place for \(lora_unet_input_blocks_0_attn.*and 2 more\)",
    ),
    "one unknown layer": (WHOLE | tensors("language_model.model.layers.7.mlp.up_proj"), r"2 tensors .*layers\.7\."),
    "another kind of adapter": (WHOLE | {f"{LAYER}.lora_magnitude_vector.weight": torch.ones(64)}, "magnitude"),
    "the VQ": (tensors("gen_vision_model.quantize.embedding", 128, 8), "gen_vision_model"),
    "an embedding": (tensors("language_model.model.embed_tokens", 320), "embed_tokens"),
    "another size": (tensors(LAYER, 2048, 2048), r"1 of 1 layers \(.*q_proj is for \[2048, 2048\], not \[64, 64\]\)"),
    "another size of one layer": (WHOLE | tensors(HEAD, 16384), r"1 of 2 layers .*vision_head"),
    "half a layer": ({k: v for k, v in WHOLE.items() if "lora_A" in k}, "only a part of .*q_proj"),
    "only an alpha": (WHOLE | {f"{HEAD}.alpha": torch.tensor(1.0)}, "only a part of gen_head"),
    "nothing": ({}, "no LoRA layer"),
    "NaN": ({k: v * float("nan") for k, v in WHOLE.items()}, "non-finite or integer values"),
    "whole numbers": ({k: v.long() for k, v in WHOLE.items()}, "torch.int64"),
    "ranks that differ": (WHOLE | {f"{LAYER}.lora_A.weight": torch.ones(3, 64)}, r"\[64, 4\] times \[3, 64\]"),
    "an alpha of NaN": (WHOLE | {f"{LAYER}.alpha": torch.tensor(float("nan"))}, "alpha"),
    "an alpha of two numbers": (WHOLE | {f"{LAYER}.alpha": torch.ones(2)}, "alpha"),
    "an alpha of no number": (WHOLE | {f"{LAYER}.alpha": torch.ones(0)}, "alpha"),
    "a complex alpha": (WHOLE | {f"{LAYER}.alpha": torch.ones((), dtype=torch.complex64)}, "alpha"),
    "complex numbers": ({k: v.to(torch.complex64) for k, v in WHOLE.items()}, "torch.complex64"),
    "float8": ({k: v.to(torch.float8_e4m3fn) for k, v in WHOLE.items()}, "torch.float8_e4m3fn"),
    "factors whose product overflows": ({k: v * 1e25 for k, v in WHOLE.items()}, "more than float32 holds"),
    "an alpha that makes them overflow": (WHOLE | {f"{LAYER}.alpha": torch.tensor(3e38)}, "more than float32 holds"),
    "names of a million letters": (WHOLE | {"a\n" * 500_000: torch.ones(1)}, "no place for"),
    "one weight twice": (WHOLE | tensors(f"base_model.model.{LAYER}"), "two names"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(janus: janus_core.Janus, path: Path, what: str) -> None:
    saved, expected = REFUSED[what]
    save_file(saved, path)
    with pytest.raises(CheckpointError, match=expected) as error:
        read_lora(path, janus.model)
    assert "my_lora.safetensors" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_factors_that_are_one_number_repeated_are_refused(janus: janus_core.Janus, tmp_path: Path) -> None:
    """A rank of 20 million in a file of a few bytes."""
    path, one = tmp_path / "my_lora.bin", torch.zeros(1, 1)
    factors = {
        f"{LAYER}.lora_B.weight": one.expand(64, 20_000_000),
        f"{LAYER}.lora_A.weight": one.expand(20_000_000, 64),
    }
    torch.save(factors, path)
    with pytest.raises(CheckpointError, match=r"my_lora.bin was refused: .*not a plain tensor"):
        read_lora(path, janus.model)


@pytest.mark.parametrize("name", ["my_lora.sft", "my_lora.pt", "my_lora.bin"])
def test_a_safetensors_file_of_another_suffix_loads(janus: janus_core.Janus, tmp_path: Path, name: str) -> None:
    save_file(WHOLE, tmp_path / name)
    (found,) = read_lora(tmp_path / name, janus.model)
    assert torch.equal(found.up, WHOLE[f"{LAYER}.lora_B.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_factors_in_every_float_type_load(janus: janus_core.Janus, path: Path, dtype: torch.dtype) -> None:
    save_file({key: tensor.to(dtype) for key, tensor in WHOLE.items()}, path)
    assert read_lora(path, janus.model)[0].up.dtype == dtype


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.bin"])
def test_a_damaged_file(janus: janus_core.Janus, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match=name):
        read_lora(tmp_path / name, janus.model)
