"""The memory estimates against what really lives: weights to the byte, work never above and at most 15 % below."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from live_bytes import LiveBytes

from janus_core import Janus, memory
from janus_core.config import JanusConfig
from janus_core.model.janus import JanusModel


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def middling(request, janus) -> Janus:
    """Random weights, large enough that what grows with the model outweighs what does not."""
    tiny = janus.model.config
    config = replace(
        tiny,
        llama=replace(tiny.llama, hidden_size=512, intermediate_size=1408, num_hidden_layers=4, num_attention_heads=8),
        gen_head_width=512,
        vision=replace(tiny.vision, width=256),
        vq=replace(tiny.vq, codebook_size=1024),
    )
    torch.manual_seed(0)
    model = JanusModel(config, dtype=request.param).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(0, 0.02)
    return Janus(model, janus.processor, torch.device("cpu"), request.param)


def close_above(estimate: int, measured: int) -> None:
    assert measured <= estimate <= 1.15 * measured


@pytest.mark.parametrize(("count", "cfg_weight"), [(1, 5.0), (4, 5.0), (16, 5.0), (4, 1.0)])
def test_drawing_and_decoding(middling, count, cfg_weight):
    weights, config = list(middling.model.parameters()), middling.model.config
    prompt = "a red circle on a green hill under a blue sky"
    with LiveBytes(weights) as drawing:
        tokens = middling.generate(prompt, count, cfg_weight=cfg_weight)
    length = len(middling.processor.drawing_prompt(prompt))
    close_above(memory.drawing_bytes(config, middling.dtype, count, length, cfg_weight != 1), drawing.peak)
    with LiveBytes(weights) as decoding:
        middling.decode(tokens)
    close_above(memory.decoding_bytes(config, middling.dtype, count), decoding.peak)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_describing(middling, count):
    question, config = "What is it?", middling.model.config
    pictures = list(torch.rand(count, 1, 50, 60, 3))
    with LiveBytes([*middling.model.parameters(), *pictures]) as describing:
        middling.answer_batch([question] * count, pictures, max_new_tokens=8, temperature=1.0)
    prompt = len(middling.processor.question_prompt(question, 1))
    close_above(memory.describing_bytes(config, middling.dtype, count, prompt, 8), describing.peak)


def test_weights_are_counted_to_the_byte(janus):
    config = janus.model.config
    for modules in (("",), ("gen_vision_model",), ("language_model.lm_head", "gen_head")):
        real = [w for name in modules for w in janus.model.get_submodule(name).parameters()]
        assert memory.weight_bytes(config, torch.float32, modules) == sum(w.numel() * 4 for w in real)


def test_the_published_sizes():
    """What DeepSeek's files hold, less the codebook's statistic and SigLIP's pooling head of width 1024."""
    unused = 65536 + 12 * 1024**2 + 12 * 1024
    for name, elements in (("Janus-Pro-1B", 2_089_297_547), ("Janus-Pro-7B", 7_420_434_059)):
        assert memory.weight_bytes(JanusConfig.preset(name), "bf16") == 2 * (elements - unused)


def test_a_7b_of_8_bits_draws_within_12_gb():
    config = JanusConfig.preset("Janus-Pro-7B")
    for dtype in ("fp8_e4m3fn", "int8"):
        drawing = memory.drawing_bytes(config, dtype, 1, 64) + memory.decoding_bytes(config, dtype, 1)
        assert memory.weight_bytes(config, dtype) + drawing < 12e9
    assert memory.weight_bytes(config, "bf16") > 12e9
