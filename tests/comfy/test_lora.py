"""Janus LoRA in a real server: it changes the picture, stacks, takes any strength, and refuses what does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_server import ComfyServer, Graph, node_of
from safetensors.torch import save_file

RANK = 4
LAYERS = {
    "language_model.model.layers.0.self_attn.v_proj": (64, 64),
    "language_model.model.layers.1.mlp.up_proj": (176, 64),
    "gen_head.vision_head": (128, 64),
}


def put(folder: Path, name: str, seed: int, kohya: bool = False, width: int = 64) -> str:
    """A random LoRA in a file of a spelling; its name in the list."""
    noise = torch.Generator().manual_seed(seed)
    saved = {}
    for layer, (out, _) in LAYERS.items():
        down, up = torch.randn(RANK, width, generator=noise), torch.randn(out, RANK, generator=noise) * 0.1
        if kohya:
            layer = "lora_unet_" + layer.replace(".", "_")
            saved |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
            saved[f"{layer}.alpha"] = torch.tensor(float(RANK))
        else:
            layer = f"base_model.model.{layer}"
            saved |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(saved, folder / name)
    return name


@pytest.fixture(scope="module")
def folder(server: ComfyServer) -> Path:
    folder = server.base / "models" / "loras"
    put(folder, "peft.safetensors", 1)
    put(folder, "kohya.safetensors", 1, kohya=True)
    put(folder, "other.safetensors", 2)
    return folder


@pytest.fixture
def unsure(drawing: Graph) -> Graph:
    """Draws where small changes of the logits show."""
    drawing[node_of(drawing, "JanusLoader")]["inputs"]["dtype"] = "fp32"
    return drawing


def with_loras(graph: Graph, *loras: tuple[Any, Any]) -> Graph:
    """The graph with a chain of Janus LoRA between Load Janus and the drawing."""
    graph = dict(graph)
    draw = node_of(graph, "JanusTextToImage")
    janus = graph[draw]["inputs"]["janus"]
    for i, (name, strength) in enumerate(loras):
        inputs = {"janus": janus, "lora": name, "strength": strength}
        graph[f"lora {i}"] = {"class_type": "JanusLoRA", "inputs": inputs}
        janus = [f"lora {i}", 0]
    graph[draw] = graph[draw] | {"inputs": graph[draw]["inputs"] | {"janus": janus}}
    return graph


def draw(server: ComfyServer, graph: Graph) -> np.ndarray:
    run = server.run(graph)
    assert run.end == "execution_success", run.error
    return np.asarray(server.pictures(run, node_of(graph, "SaveImage"))[0])


def test_a_lora_changes_the_picture_and_leaves_the_model_as_it_was(
    server: ComfyServer, folder: Path, unsure: Graph
) -> None:
    plain = draw(server, unsure)
    patched = draw(server, with_loras(unsure, ("peft.safetensors", 1.0)))
    assert np.abs(patched.astype(int) - plain).mean() > 5
    assert np.array_equal(draw(server, unsure), plain)
    draw_node = node_of(unsure, "JanusTextToImage")
    unsure[draw_node]["inputs"]["batch_size"] = 2  # so that it is drawn again and not taken from ComfyUI's cache
    assert np.abs(draw(server, unsure).astype(int) - plain).max() <= 1


def test_strength_0_is_bit_identical_to_none(server: ComfyServer, folder: Path, unsure: Graph) -> None:
    server.forget()
    plain = draw(server, unsure)
    server.forget()
    assert np.array_equal(draw(server, with_loras(unsure, ("peft.safetensors", 0.0))), plain)


def test_both_spellings_draw_the_same(server: ComfyServer, folder: Path, unsure: Graph) -> None:
    peft, kohya = (draw(server, with_loras(unsure, (f"{name}.safetensors", 1.0))) for name in ("peft", "kohya"))
    assert np.abs(peft.astype(int) - kohya).max() <= 1


def test_a_lora_and_its_negative_cancel_within_rounding(server: ComfyServer, folder: Path, unsure: Graph) -> None:
    plain = draw(server, unsure)
    back = draw(server, with_loras(unsure, ("peft.safetensors", 0.5), ("peft.safetensors", -0.5)))
    assert np.abs(back.astype(int) - plain).max() <= 1


def test_two_loras_draw_the_same_in_either_order(server: ComfyServer, folder: Path, unsure: Graph) -> None:
    loras = ("peft.safetensors", 0.6), ("other.safetensors", 0.4)
    one, other = draw(server, with_loras(unsure, *loras)), draw(server, with_loras(unsure, *loras[::-1]))
    assert np.abs(one.astype(int) - other).max() <= 1
    assert not np.array_equal(one, draw(server, with_loras(unsure, loras[0])))


def test_two_strengths_of_one_lora_in_one_graph_take_turns(server: ComfyServer, folder: Path, unsure: Graph) -> None:
    draws, save = node_of(unsure, "JanusTextToImage"), node_of(unsure, "SaveImage")
    alone = [draw(server, with_loras(unsure, ("peft.safetensors", strength))) for strength in (1.0, -1.0)]
    server.forget()
    graph = with_loras(unsure, ("peft.safetensors", 1.0))
    graph["turned"] = {"class_type": "JanusLoRA", "inputs": graph["lora 0"]["inputs"] | {"strength": -1.0}}
    graph["draw turned"] = graph[draws] | {"inputs": graph[draws]["inputs"] | {"janus": ["turned", 0]}}
    graph["save turned"] = graph[save] | {"inputs": graph[save]["inputs"] | {"images": ["draw turned", 0]}}
    run = server.run(graph)
    together = [np.asarray(server.pictures(run, node)[0]) for node in (save, "save turned")]
    assert not np.array_equal(alone[0], alone[1])
    assert all(np.array_equal(one, two) for one, two in zip(alone, together, strict=True))


def test_a_lora_replaced_on_disk_is_read_again(server: ComfyServer, folder: Path, unsure: Graph) -> None:
    graph = with_loras(unsure, (put(folder, "changing.safetensors", 3), 1.0))
    before = draw(server, graph)
    put(folder, "changing.safetensors", 4)
    assert not np.array_equal(draw(server, graph), before)


def test_what_peft_says_of_a_lora_beside_it_is_read_again_too(server: ComfyServer, folder: Path, unsure: Graph) -> None:
    put(folder / "tuned", "adapter_model.safetensors", 5)
    settings = folder / "tuned" / "adapter_config.json"
    settings.write_text(json.dumps({"r": RANK, "lora_alpha": RANK}))
    graph = with_loras(unsure, ("tuned/adapter_model.safetensors", 1.0))
    before = draw(server, graph)
    settings.write_text(json.dumps({"r": RANK, "lora_alpha": 3 * RANK}))
    assert not np.array_equal(draw(server, graph), before)


@pytest.mark.parametrize("name", ["gone.safetensors", "../janus/tiny/model.safetensors", "/etc/passwd", ""])
def test_only_listed_loras_can_be_opened(server: ComfyServer, folder: Path, unsure: Graph, name: str) -> None:
    assert f"no LoRA {name!r}" in server.run(with_loras(unsure, (name, 1.0))).error
    graph = with_loras(unsure, (["name", 0], 1.0))
    graph["name"] = {"class_type": "Anything", "inputs": {"value": name}}
    assert server.run(graph).error.startswith(f"There is no LoRA {name!r}")


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_lora_of_another_model_is_refused(server: ComfyServer, folder: Path, unsure: Graph, strength: float) -> None:
    put(folder, "too wide.safetensors", 1, width=2048)
    error = server.run(with_loras(unsure, ("too wide.safetensors", strength))).error
    assert error.startswith("too wide.safetensors does not fit this Janus in 3 of 3 layers")
    assert "\n" not in error
    save_file({f"lora_unet_down_{i}.lora_up.weight": torch.ones(2, 2) for i in range(9)}, folder / "sdxl.safetensors")
    error = server.run(with_loras(unsure, ("sdxl.safetensors", strength))).error
    assert "9 tensors that this Janus has no place for (lora_unet_down_0.lora_up.weight, " in error
    assert "and 6 more" in error


@pytest.mark.parametrize("strength", [float("nan"), 20.5, -21.0])
def test_strengths_out_of_range(server: ComfyServer, folder: Path, unsure: Graph, strength: float) -> None:
    assert "strength" in server.run(with_loras(unsure, ("peft.safetensors", strength))).error
