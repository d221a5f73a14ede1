"""LoRAs on ComfyUI's patchers: the weights are the merged ones, wherever they are, and the original stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
RANK = 4
LANGUAGE = {
    "language_model.model.layers.0.self_attn.q_proj": (64, 64),
    "language_model.model.layers.0.self_attn.o_proj": (64, 64),
    "language_model.model.layers.1.mlp.gate_proj": (176, 64),
    "language_model.model.layers.1.mlp.down_proj": (64, 176),
    "gen_head.vision_head": (128, 64),
    "gen_aligner.layers.0": (64, 8),
    "language_model.lm_head": (320, 64),
}
QKV = "vision_model.vision_tower.blocks.1.attn.qkv"
Make = Callable[..., list[Any]]


@pytest.fixture
def hosted(weights: Any) -> Any:
    return weights.load_janus(TINY, "fp32")


@pytest.fixture
def lora(hosted: Any, pack: Callable[[str], Any], tmp_path: Path) -> Make:
    """Writes a random LoRA and reads it for the tiny Janus."""

    def make(seed: int, layers: dict[str, tuple[int, int]] = LANGUAGE) -> list[Any]:
        noise = torch.Generator().manual_seed(seed)
        saved = {}
        for layer, (out, width) in layers.items():
            saved[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(out, RANK, generator=noise) * 0.1
            saved[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(RANK, width, generator=noise)
        save_file(saved, tmp_path / f"{seed}.safetensors")
        return pack("janus_core.weights.lora").read_lora(tmp_path / f"{seed}.safetensors", hosted.core.model)

    return make


def numbers(janus: Any) -> torch.Tensor:
    """What a loaded Janus makes of a prompt's words, of picture codes and of a picture: logits, one after the other."""
    model = janus.model
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        embeds = model.embed_text(torch.tensor([janus.processor.drawing_prompt("a red circle")]))
        embeds = torch.cat((embeds, model.embed_codes(torch.arange(30)[None])), dim=1)
        pixels = torch.rand(1, 3, 96, 96, generator=noise).to(embeds.dtype) * 2 - 1
        hidden = model.language_model.model(torch.cat((embeds, model.embed_images(pixels)), dim=1))
        return torch.cat((model.gen_head(hidden), model.language_model.lm_head(hidden)), dim=-1)


def loaded(hosted: Any) -> torch.Tensor:
    core = hosted.core
    everything = core.drawing_need("a red circle") + core.answering_need("What is it?") + core.decoding_need()
    return numbers(hosted.ready(everything))


def offload(hosted: Any) -> None:
    """Leave every weight on the offload device, to be patched at each use."""
    for patcher in hosted._patchers.values():
        patcher.detach()
        patcher.partially_load(patcher.load_device, 0.1)
    assert sum(patcher.lowvram_patch_counter() for patcher in hosted._patchers.values()) == len(LANGUAGE)


def merged(weights: Any, *loras: tuple[list[Any], float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The same of a Janus whose weights had the LoRAs added in float32 before they were rounded to `dtype`."""
    janus = weights.load(TINY)
    state = janus.model.state_dict()
    for layers, strength in loras:
        for layer in layers:
            weight = state[layer.target.key]
            start, length = layer.target.rows or (0, len(weight))
            weight[start : start + length] += strength * layer.scale * (layer.up @ layer.down)
    janus.model.to(dtype)
    janus.precision = weights.Precision(dtype)
    return numbers(janus)


@pytest.mark.parametrize("strength", [1.0, -0.7, 20.0])
def test_equals_merging_in_float32(weights: Any, hosted: Any, lora: Make, strength: float) -> None:
    layers = lora(1)
    expected = merged(weights, (layers, strength))
    assert (expected - merged(weights)).abs().max() > 0.1
    torch.testing.assert_close(loaded(hosted.with_lora(layers, strength)), expected, rtol=0, atol=1e-4)


def test_equals_merging_in_float32_when_all_is_offloaded(weights: Any, hosted: Any, lora: Make) -> None:
    layers = lora(1)
    patched = hosted.with_lora(layers, 1.0)
    offload(patched)
    torch.testing.assert_close(numbers(patched.core), merged(weights, (layers, 1.0)), rtol=0, atol=1e-4)
    weights.comfy.model_management.unload_all_models()
    assert torch.equal(loaded(hosted), merged(weights))


def test_bf16_weights_are_those_merged_in_float32_and_rounded(weights: Any, lora: Make) -> None:
    layers = lora(1)
    patched = weights.load_janus(TINY, "bf16").with_lora(layers, 1.0)
    assert torch.equal(loaded(patched), merged(weights, (layers, 1.0), dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", ["int8", "fp8_e4m3fn"])
def test_8_bit_weights_take_a_lora_about_as_exactly_as_they_are_themselves(
    weights: Any, lora: Make, dtype: str
) -> None:
    layers = lora(1)
    hosted = weights.load_janus(TINY, dtype)
    plain, rounding = loaded(hosted), (loaded(hosted) - merged(weights)).abs().mean()
    patched = hosted.with_lora(layers, 0.5)
    error = (loaded(patched) - merged(weights, (layers, 0.5))).abs().mean()
    assert error < 3 * rounding < (plain - merged(weights, (layers, 0.5))).abs().mean()
    assert torch.equal(loaded(hosted), plain)


def test_an_offloaded_8_bit_weight_takes_a_lora_without_rounding_it_again(weights: Any, lora: Make) -> None:
    layers = lora(1)
    hosted = weights.load_janus(TINY, "int8")
    patched = hosted.with_lora(layers, 0.5)
    expected = merged(weights, (layers, 0.5))
    rounded = (loaded(patched) - expected).abs().mean()
    plain = loaded(hosted)
    offload(patched)
    assert (numbers(patched.core) - expected).abs().mean() < 1.1 * rounded
    weights.comfy.model_management.unload_all_models()
    assert torch.equal(loaded(hosted), plain)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_stochastic_rounding_keeps_the_mean_of_changes_too_small_for_8_bits(pack: Any, kind: torch.dtype) -> None:
    weight = torch.full((50, 1000), 40.1)
    stochastic_round = pack("nodes.host.operations")._stochastic_round
    rounded = stochastic_round(weight, kind, seed=1)
    assert rounded.dtype == kind
    assert torch.equal(rounded.float(), stochastic_round(weight, kind, seed=1).float())
    assert rounded.float().unique().numel() == 2
    assert abs(rounded.float().mean() - 40.1) < 0.05


def test_a_lora_for_the_parts_of_a_stacked_weight(weights: Any, hosted: Any, lora: Make) -> None:
    name = "model.vision_model.encoder.layers.1.self_attn"
    layers = lora(5, {f"{name}.{part}_proj": (48, 48) for part in "qv"})
    assert {layer.target.key for layer in layers} == {f"{QKV}.weight"}
    expected = merged(weights, (layers, 1.0))
    assert not torch.equal(expected, merged(weights))
    torch.testing.assert_close(loaded(hosted.with_lora(layers, 1.0)), expected, rtol=0, atol=1e-4)


def test_loras_stack_in_any_order(weights: Any, hosted: Any, lora: Make) -> None:
    one, two = lora(1), lora(2)
    there = loaded(hosted.with_lora(one, 1.0).with_lora(two, 0.5))
    back = loaded(hosted.with_lora(two, 0.5).with_lora(one, 1.0))
    torch.testing.assert_close(there, back, rtol=0, atol=1e-4)
    torch.testing.assert_close(there, merged(weights, (one, 1.0), (two, 0.5)), rtol=0, atol=1e-4)


def test_a_lora_and_its_negative_cancel(hosted: Any, lora: Make) -> None:
    layers = lora(1)
    there_and_back = hosted.with_lora(layers, 0.8).with_lora(layers, -0.8)
    torch.testing.assert_close(loaded(there_and_back), loaded(hosted), rtol=0, atol=1e-4)


def test_drawing_rearranges_the_weights_of_layers_that_are_not_patched_at_each_use(
    pack: Any, hosted: Any, lora: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack("janus_core.generation.cpu_kernels"), "MIN_PACKED_WEIGHTS", 1)
    patched = hosted.with_lora(lora(1), 1.0)
    janus = patched.ready(patched.core.drawing_need("a red circle"))

    def drawn() -> tuple[set[str], list[int]]:
        """The layers that ran on rearranged weights, and the picture."""
        seen: set[str] = set()
        layers = list(janus.model.named_modules())
        watch = lambda *_: seen.update(name for name, layer in layers if "forward" in layer.__dict__)
        return seen, janus.generate("a red circle", progress=watch).ids.tolist()

    whole, picture = drawn()
    for patcher in patched._patchers.values():
        patcher.detach()
        patcher.partially_load(patcher.load_device, 0.1)
    part, same = drawn()
    assert whole - part == {
        "language_model.model.layers.0.self_attn.qkv_proj", "language_model.model.layers.0.self_attn.o_proj",
        "language_model.model.layers.1.mlp.gate_up_proj", "language_model.model.layers.1.mlp.down_proj",
        "gen_head.vision_head", "gen_aligner.layers.0",
    }  # fmt: skip
    assert part and same == picture


def test_swapping_reads_no_file_and_leaves_no_trace(hosted: Any, lora: Make) -> None:
    weights = {key: value.data_ptr() for key, value in hosted.core.model.state_dict().items()}
    plain = loaded(hosted)
    first, second = hosted.with_lora(lora(1), 1.0), hosted.with_lora(lora(2), 1.0)
    a, b = loaded(first), loaded(second)
    assert not torch.equal(a, b)
    assert torch.equal(loaded(hosted), plain)
    assert torch.equal(loaded(first), a)
    assert torch.equal(loaded(second), b)
    del first, second
    assert torch.equal(loaded(hosted), plain)
    assert {key: value.data_ptr() for key, value in hosted.core.model.state_dict().items()} == weights
