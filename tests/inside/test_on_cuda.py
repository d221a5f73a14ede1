"""A Janus of ComfyUI's layers, on tensors that claim to be on CUDA: wherever ComfyUI leaves its weights, all tasks run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from absent_device import OpLog, absent_device, claim

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
LORA = ("language_model.model.layers.1.mlp.down_proj", "gen_head.vision_head", "language_model.lm_head")


@pytest.fixture(params=["bf16", "fp16", "int8", "fp8_e4m3fn"])
def core(request: pytest.FixtureRequest, weights: Any) -> Any:
    """The tiny Janus, built for a host that computes on CUDA."""
    execution = weights.Execution(CUDA, unpatched=weights.unpatched_at_use)
    return weights.load(TINY, CPU, request.param, layers=weights.LAYERS, execution=execution)


@pytest.fixture
def build_for_cpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What such a build of PyTorch cannot do with tensors that claim to be on CUDA."""

    def move(module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
        for layer in module.modules():
            for name, weight in layer.named_parameters(recurse=False):
                setattr(layer, name, torch.nn.Parameter(change(weight), requires_grad=False))
        return module

    generator = torch.Generator
    monkeypatch.setattr(torch.nn.Module, "_apply", move)  # PyTorch's own exchanges the contents of such tensors
    monkeypatch.setattr(torch, "Generator", lambda device=None: generator())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)  # newer versions of ComfyUI load with it


def lora(pack: Callable[[str], Any], model: torch.nn.Module) -> list[Any]:
    """Layers of rank 4 on some weights."""
    module = pack("janus_core.weights.lora")
    layers = []
    for name in LORA:
        key = f"{name}.weight"
        out, width = model.get_parameter(key).shape
        target = module.Target(key, None, (out, width))
        layers.append(module.LoraLayer(target, torch.empty(out, 4), torch.empty(4, width), 1.0))
    return layers


def steps(pack: Callable[[str], Any], core: Any) -> list[Any]:
    """A step of each task, after its prompt; decoding and encoding too are done once."""
    codes, image = pack("janus_core.generation.codes"), pack("janus_core.generation.image")
    text = pack("janus_core.generation.text")
    jacobi, sampling = pack("janus_core.generation.jacobi"), pack("janus_core.generation.sampling")
    model, processor, how = core.model, core.processor, core.execution
    settings = {"prompt": processor.drawing_prompt("a red cat"), "pad": processor.pad, "steps": 9, "count": 2}
    features = model.embed_images(torch.empty(1, 3, 96, 96, dtype=core.dtype, device=CUDA))
    prompt, special = processor.question_prompt("is it red?", 1), {"image_id": processor.image, "pad": processor.pad}
    embeds, mask = text.embed_prompts(model, [prompt], **special, features=features, device=CUDA)
    answer = text.AnswerStep(model, embeds, mask, how, new=20, seed=0, sampling=sampling.Sampling(0.0))
    answer.embeds.copy_(model.embed_text(answer.ids))
    pixels = model.gen_vision_model.decode(torch.zeros(1, 36, dtype=torch.long, device=CUDA), (6, 6))
    ids = model.gen_vision_model.encode(pixels)[1]
    assert {x.device for x in (features, embeds, pixels, ids)} == {CUDA}
    return [
        image.DrawingStep(model, codes.Drawing(**settings), how),
        jacobi.JacobiPass(model, codes.Drawing(**settings, window=4), how),
        answer,
    ]


@pytest.mark.parametrize(
    ("share", "patched"), [(2, False), (0.5, False), (0, False), (2, True), (0, True)],
    ids=["whole", "half offloaded", "offloaded", "whole with a LoRA", "a LoRA at each use"],
)  # fmt: skip
def test_all_tasks_run_wherever_the_weights_are(
    pack: Callable[[str], Any], weights: Any, core: Any, build_for_cpus_only: None, share: float, patched: bool
) -> None:
    mode = claim(core.model, lambda key: "cpu")
    hosted, whole = weights.HostedJanus(core, CPU), share == 2
    with absent_device(mode), torch.inference_mode(), OpLog(CUDA):
        if patched:
            hosted = hosted.with_lora(lora(pack, core.model), 1.0)
        for patcher in hosted._patchers.values():
            patcher.partially_load(CUDA, max(0.1, share * patcher.model_size()))
        at_use = [layer for layer in core.model.modules() if getattr(layer, "weight_function", None)]
        merged = [key for patcher in hosted._patchers.values() for key in patcher.backup]
        assert (len(merged), len(at_use)) == (len(LORA) * (patched and whole), len(LORA) * (patched and not whole))
        for parts in (core.model.drawing_parts, core.model.answering_parts):
            assert core.execution.uses_graphs(parts) == whole
        for step in steps(pack, core):
            with OpLog(CUDA) as log:
                step(64)
            assert not [fault for fault in log.faults if "waits" in fault]
            assert bool(log.faults) == (not whole), "only what is offloaded comes from elsewhere"
