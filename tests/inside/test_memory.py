"""Residency under ComfyUI's patchers: partial loads change nothing, work is announced, and what is loaded is shared."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
CPU = torch.device("cpu")
PICTURES = torch.rand(2, 96, 96, 3, generator=torch.Generator().manual_seed(0))


def fresh(weights: Any, dtype: str = "fp32") -> Any:
    """The tiny Janus behind patchers, shared with no other test."""
    execution = weights.Execution(CPU, unpatched=weights.unpatched_at_use)
    return weights.HostedJanus(weights.load(TINY, CPU, dtype, layers=weights.LAYERS, execution=execution), CPU)


def everything(janus: Any) -> list[Any]:
    """Whatever a Janus can do, as plain values."""
    tokens = janus.generate("a red circle", count=2, seed=3)
    answers = janus.answer_batch(["What is it?", "Why?"], [PICTURES[:1], []], max_new_tokens=8)
    return [tokens.ids.tolist(), janus.decode(tokens).tolist(), janus.encode(PICTURES).ids.tolist(), answers]


def offload(hosted: Any, share: float) -> list[torch.nn.Module]:
    """Load each part with room for a share of its weights; the modules left on the offload device."""
    for patcher in hosted._patchers.values():
        patcher.partially_load(CPU, max(0.1, share * patcher.model_size()))
    return [m for m in hosted.core.model.modules() if hasattr(m, "prev_comfy_cast_weights")]


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", "fp8_e4m3fn"])
@pytest.mark.parametrize("share", [0, 0.3, 0.7])
def test_a_partial_load_computes_what_a_full_one_does(weights: Any, dtype: str, share: float) -> None:
    expected = everything(weights.load(TINY, dtype=dtype))
    hosted = fresh(weights, dtype)
    left = offload(hosted, share)
    model = hosted.core.model
    table = model.language_model.model.embed_tokens  # which ComfyUI never moves
    own = [m for m in model.modules() if hasattr(m, "comfy_cast_weights") and m is not table]
    assert len(left) == len(own) if share == 0 else 0 < len(left) < len(own)
    assert everything(hosted.core) == expected


@pytest.mark.parametrize("share", [0, 0.5])
def test_no_offloaded_weight_is_used_in_place(weights: Any, share: float) -> None:
    """Another dtype stands in for another device here: weights of it are either cast for each use, or an error."""
    expected = everything(weights.load(TINY))
    hosted = fresh(weights)
    tower = hosted.core.model.vision_model.vision_tower
    away = [m for m in offload(hosted, share) if not isinstance(m, torch.nn.Embedding)]  # whose output has its dtype
    assert away
    for module in away:
        module.double()
    tower.pos_embed.data = tower.pos_embed.data.double()  # belongs to no layer: a partial load never moves it
    assert everything(hosted.core) == expected
    assert hosted.core.model.embed_images(torch.rand(1, 3, 96, 96)).dtype == torch.float32


def test_each_weight_is_in_one_part_but_the_words_are_in_none(weights: Any) -> None:
    hosted = fresh(weights)
    keys = [key for patcher in hosted._patchers.values() for key in patcher.model.state_dict()]
    assert len(keys) == len(set(keys))
    assert hosted.core.model.state_dict().keys() - keys == {"language_model.model.embed_tokens.weight"}


def test_unloading_while_nothing_runs_leaves_no_trace(weights: Any) -> None:
    hosted = fresh(weights)
    state = {key: value.clone() for key, value in hosted.core.model.state_dict().items()}
    before = everything(hosted.core)
    for _ in range(3):
        hosted.ready(hosted.core.answering_need("What is it?", max_new_tokens=5))
        hosted.ready(hosted.core.drawing_need("a red circle"))
        weights.comfy.model_management.unload_all_models()
        offload(hosted, 0.3)
    assert everything(hosted.core) == before
    weights.comfy.model_management.unload_all_models()
    assert all(torch.equal(state[key], value) for key, value in hosted.core.model.state_dict().items())


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, large enough that what grows with the model outweighs what does not."""
    from janus_core.config import JanusConfig
    from janus_core.model.janus import JanusModel
    from janus_core.weights.saving import save_weights

    folder = tmp_path_factory.mktemp("models") / "middling"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config["language_config"] |= {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
    config["vision_config"]["params"]["width"] = 256
    config["aligner_config"]["params"] |= {"input_dim": 256}
    for part in ("aligner_config", "gen_aligner_config", "gen_head_config"):
        config[part]["params"]["n_embed"] = 512
    config["gen_head_config"]["params"] |= {"image_token_embed": 512}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = JanusModel(JanusConfig.from_dict(config), dtype=torch.float32).requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(0, 0.02)
    save_weights(model, folder, torch.float32)
    return folder


@pytest.fixture
def measure(weights: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """Runs something; for each load it asked ComfyUI for, the memory it asked for beside and the memory it then took."""
    load = weights.comfy.model_management.load_models_gpu

    def measured(hosted: Any, run: Callable[[], object], known: list[torch.Tensor]) -> list[tuple[int, int]]:
        asked, taken = [], []

        def spy(models: list[Any], memory_required: int = 0) -> None:
            load(models, memory_required)
            taken.append(live.peak)
            asked.append(memory_required)
            live.peak = 0

        monkeypatch.setattr(weights.comfy.model_management, "load_models_gpu", spy)
        with torch.no_grad(), LiveBytes([*hosted.core.model.parameters(), *known]) as live:
            run()
        return list(zip(asked, [*taken[1:], live.peak], strict=True))

    return measured


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("count", [1, 4, 16])
def test_nodes_ask_for_the_memory_they_take(
    pack: Any, weights: Any, middling: Path, measure: Any, count: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    JanusChat, JanusDescribeImage = pack("nodes.chat").JanusChat, pack("nodes.describe").JanusDescribeImage
    JanusTextToImage = pack("nodes.generate").JanusTextToImage

    # What ComfyUI's executor fills in before it calls a node.
    for node in (JanusDescribeImage, JanusChat):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="1"))

    hosted = weights.load_janus(middling, dtype)
    settings = {"seed": 0, "batch_size": count, "cfg": 5.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    drawing = measure(hosted, lambda: JanusTextToImage.execute(hosted, "a red circle on a hill", **settings), [])
    assert len(drawing) == 2
    pictures, answer = torch.rand(count, 96, 96, 3), {"max_tokens": 8, "temperature": 1.0, "seed": 0}
    describing = measure(
        hosted, lambda: JanusDescribeImage.execute(hosted, pictures, "What is it?", **answer), [pictures]
    )
    said = "What are these? " * 8
    talking = measure(
        hosted, lambda: JanusChat.execute(hosted, said, **answer, drop_turns=0, image=pictures), [pictures]
    )
    talking += measure(hosted, lambda: JanusChat.execute(hosted, said, **answer, drop_turns=0), [])
    names = ("drawing", "decoding", "describing", "talking about pictures", "talking")
    for what, (asked, taken) in zip(names, [*drawing, *describing, *talking], strict=True):
        print(f"{what} {count} in {dtype}: asked {asked}, took {taken}, {asked / taken - 1:+.1%}")
        assert taken <= asked <= 1.15 * taken


@pytest.mark.parametrize("count", [1, 4])
def test_thinking_editing_and_a_drawn_reply_ask_for_the_memory_they_take(
    pack: Any, weights: Any, middling: Path, measure: Any, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, edit, chat = (
        getattr(pack(f"nodes.{file}"), node)
        for file, node in (("generate", "JanusTextToImage"), ("edit", "JanusEdit"), ("chat", "JanusChat"))
    )
    for node in (draw, chat):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="1"))
    hosted, pictures = weights.load_janus(middling, "bf16"), torch.rand(count, 96, 96, 3)
    common = {"seed": 0, "cfg": 5.0, "temperature": 1.0}
    settings = common | {"batch_size": count, "top_k": 0, "top_p": 1.0, "thinking": "on"}
    thinking = measure(hosted, lambda: draw.execute(hosted, "a red circle on a hill", **settings), [])
    change = common | {"image_cfg": 5.0, "force": True}
    editing = measure(hosted, lambda: edit.execute(hosted, pictures, "Make it night.", **change), [pictures])
    reply = {"max_tokens": 8, "temperature": 0.0, "seed": 0, "drop_turns": 0, "draw": True, "image": pictures}
    drawn = measure(hosted, lambda: chat.execute(hosted, "Draw it.", **reply), [pictures])
    names = [
        f"{task}, {step}" for task in ("thinking", "editing", "a reply") for step in ("reading", "drawing", "decoding")
    ]
    for what, (asked, taken) in zip(names, [*thinking, *editing, *drawn], strict=True):
        print(f"{what} {count}: asked {asked}, took {taken}, {asked / taken - 1:+.1%}")
        if "decoding" not in what:  # which is measured above
            assert taken <= asked
            assert asked <= 1.15 * taken or what == "a reply, reading"  # for which a token of an answer is counted, too


@pytest.mark.parametrize(("dtype", "count"), [("bf16", 1), ("int8", 1), ("int8", 4)])
def test_drawing_asks_for_the_copies_of_rearranged_weights_too(
    pack: Any, weights: Any, middling: Path, measure: Any, count: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack("janus_core.generation.cpu_kernels"), "MIN_PACKED_WEIGHTS", 2**17)
    hosted = weights.load_janus(middling, dtype)
    request = ("a red circle", count)
    ((asked, taken),) = measure(hosted, lambda: hosted.ready(hosted.core.drawing_need(*request)).generate(*request), [])
    # In rearranged int8 layers no weight is cast, as the estimate has it for the largest.
    spare = 2 * 512 * 1408 * hosted.core.precision.compute.itemsize if dtype == "int8" and count == 4 else 0
    assert taken <= asked <= 1.15 * taken + spare


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32])
def test_a_cpu_computes_8_bits_in_bfloat16_where_it_is_fast_at_that(
    weights: Any, monkeypatch: pytest.MonkeyPatch, compute: torch.dtype
) -> None:
    monkeypatch.setattr(weights, "cpu_compute_dtype", lambda: compute)
    hosted = weights.load_janus(TINY, "int8")
    assert hosted.core.dtype == hosted.core.model.gen_head.vision_head.weight.dtype == compute
    assert weights.load_janus(TINY, "fp32").core.dtype == torch.float32


def test_a_second_load_of_the_same_files_and_dtype_shares_the_weights(weights: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "copy")
    first = weights.load_janus(folder, "fp32")
    assert weights.load_janus(folder, "fp32") is first
    assert weights.load_janus(folder, "bf16").core is not first.core
    patched = first.with_lora([], 1.0)
    janus = first.core
    del first
    assert weights.load_janus(folder, "fp32").core is janus, "a model with a LoRA keeps its base in use"
    del patched, janus
    gc.collect()
    assert not any(str(folder) in str(key) for key in weights._loaded), "what nobody uses is forgotten"


def test_a_file_replaced_on_disk_is_not_shared(weights: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "copy")
    first = weights.load_janus(folder, "fp32")
    shutil.copy(TINY / "model.safetensors", folder / "new")
    (folder / "new").replace(folder / "model.safetensors")
    assert weights.load_janus(folder, "fp32").core is not first.core
