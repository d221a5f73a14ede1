"""The memory estimates against what really lives: weights to the byte, work never above and at most 15 % below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from live_bytes import LiveBytes
from torch._subclasses import FakeTensorMode

from janus_core import InputError, Janus, editing, memory
from janus_core.config import JanusConfig
from janus_core.generation import codes, cpu_kernels
from janus_core.generation.cache import DeviceCache
from janus_core.generation.execution import Execution
from janus_core.model.janus import JanusModel
from janus_core.precision import NAMES, Precision


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
    return Janus(model, janus.processor, precision=Precision(request.param), execution=Execution(torch.device("cpu")))


def drawing_of(config: JanusConfig, prompt: int, count: int, **settings: Any) -> codes.Drawing:
    """`count` pictures of the model's own size from a prompt of `prompt` tokens."""
    return codes.Drawing(prompt=[0] * prompt, pad=0, steps=math.prod(config.grid), count=count, **settings)


def close_above(estimate: int, measured: int) -> None:
    assert measured <= estimate <= 1.15 * measured


@pytest.mark.parametrize(
    ("count", "cfg_weight"), [(1, 5.0), (4, 5.0), pytest.param(16, 5.0, marks=pytest.mark.slow), (4, 1.0)]
)
def test_drawing_and_decoding(middling, count, cfg_weight):
    weights, config = list(middling.model.parameters()), middling.model.config
    prompt = "a red circle on a green hill under a blue sky"
    with LiveBytes(weights) as drawing:
        tokens = middling.generate(prompt, count, cfg_weight=cfg_weight)
    length = len(middling.processor.drawing_prompt(prompt))
    work = drawing_of(config, length, count, cfg_weight=cfg_weight)
    close_above(memory.drawing_bytes(config, middling.dtype, work), drawing.peak)
    with LiveBytes(weights) as decoding:
        middling.decode(tokens)
    close_above(memory.decoding_bytes(config, middling.dtype, pictures=count), decoding.peak)


@pytest.mark.parametrize("window", [1, 4])
def test_drawing_a_prompt_a_picture(middling, window):
    prompts = ("a red circle on a green hill under a blue sky, with two small white boats below it", "a cat", "an owl")
    own = tuple(map(middling.processor.drawing_prompt, prompts))
    drawing = replace(middling.drawing_of("a cat", 3, prompts=own), window=window)
    with LiveBytes(list(middling.model.parameters())) as drawn:
        middling.draw(drawing)
    close_above(memory.drawing_bytes(middling.model.config, middling.dtype, drawing), drawn.peak)


@pytest.mark.parametrize("count", [1, 3])
def test_editing(middling, pictures, count):
    images, weights, config = pictures(count), list(middling.model.parameters()), middling.model.config
    with LiveBytes([*weights, images]) as reading:
        shown = editing.show(middling, images)
    assert reading.peak <= editing.showing_need(middling, count).bytes
    drawing = editing.editing_of(middling, shown, "Make it night.")
    with LiveBytes([*weights, shown.seen, shown.drawn, drawing.features]) as drawn:
        middling.draw(drawing)
    close_above(memory.drawing_bytes(config, middling.dtype, drawing) - drawing.features.nbytes, drawn.peak)


@pytest.mark.parametrize("count", [1, 4])
def test_encoding(middling, pictures, count):
    images = pictures(count)
    with LiveBytes([*middling.model.parameters(), images]) as encoding:
        middling.encode(images)
    assert encoding.peak <= middling.encoding_need(images).bytes


@pytest.mark.parametrize(("count", "window"), [(1, 4), (1, 16), (4, 8)])
def test_drawing_ahead(middling, count, window):
    with LiveBytes(list(middling.model.parameters())) as drawing:
        middling.generate("a red circle", count, sampler="jacobi", window=window)
    length, config = len(middling.processor.drawing_prompt("a red circle")), middling.model.config
    work = drawing_of(config, length, count, window=window)
    close_above(memory.drawing_bytes(config, middling.dtype, work), drawing.peak)


@pytest.mark.parametrize("count", [1, 4])
def test_drawing_from_rearranged_weights(middling, monkeypatch, count):
    monkeypatch.setattr(cpu_kernels, "MIN_PACKED_WEIGHTS", 2**17)
    with LiveBytes(list(middling.model.parameters())) as drawing:
        middling.generate("a red circle", count)
    length, config = len(middling.processor.drawing_prompt("a red circle")), middling.model.config
    copies = cpu_kernels.copied_bytes(middling.model.drawing_parts, rows=2 * count, device=middling.device)
    assert copies > 0.2 * drawing.peak
    estimate = copies + memory.drawing_bytes(config, middling.dtype, drawing_of(config, length, count))
    close_above(estimate, drawing.peak)
    assert middling.drawing_need("a red circle", count).bytes == estimate


@pytest.mark.parametrize("count", [1, 4, pytest.param(16, marks=pytest.mark.slow)])
def test_describing(middling, count):
    question, config = "What is it?", middling.model.config
    pictures = list(torch.rand(count, 1, 50, 60, 3))
    with LiveBytes([*middling.model.parameters(), *pictures]) as describing:
        middling.answer_batch([question] * count, pictures, max_new_tokens=8, temperature=1.0)
    prompt = len(middling.processor.question_prompt(question, 1))
    estimate = memory.answering_bytes(config, middling.dtype, rows=count, prompt=prompt, new=8, pictures=count)
    close_above(estimate, describing.peak)


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
        drawing = memory.drawing_bytes(config, dtype, drawing_of(config, 64, 1))
        work = drawing + memory.decoding_bytes(config, dtype, pictures=1)
        assert memory.weight_bytes(config, dtype) + work < 12e9
    assert memory.weight_bytes(config, "bf16") > 12e9


@pytest.fixture
def split(janus) -> Iterator[Callable[[tuple[str, ...]], JanusModel]]:
    """Puts parts of a model on a second device and leaves the rest on the CPU: tensors that meet must lie together."""
    config = janus.model.config
    with FakeTensorMode(), torch.no_grad():

        def make(parts: tuple[str, ...]) -> JanusModel:
            model = JanusModel(config, dtype=torch.float32)
            for name in (name for kind in parts for name in memory.PARTS[kind]):
                part = model.get_submodule(name)
                part.load_state_dict({key: w.to("meta") for key, w in part.state_dict().items()}, assign=True)
            return model

        yield make


def there(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long, device="meta")


def test_drawing_needs_only_its_parts_on_the_device(split):
    model = split(memory.DRAWING)
    cache = DeviceCache(model.config.llama, 2, 20, "meta", torch.float32)
    step = cache.step(there(2, 1), 20)
    for embeds, attend in ((model.embed_text(there(2, 7)), cache.prompt()), (model.embed_codes(there(2, 1)), step)):
        hidden = model.language_model.model(embeds, attend=attend)
        assert model.gen_head(hidden).device.type == "meta"
    with pytest.raises(RuntimeError, match="on the same device"):
        model.language_model.lm_head(hidden)
    pixels = split(memory.DECODING).gen_vision_model.decode(there(1, 36), (6, 6))
    assert pixels.device.type == "meta"


def test_an_answer_too_long_for_the_context_has_no_need(janus):
    for tokens in (1024, 10**400):
        with pytest.raises(InputError, match=f"{tokens} more are needed"):
            janus.answering_need("What?", max_new_tokens=tokens)


def test_answering_needs_only_its_parts_on_the_device(split):
    model = split(memory.ANSWERING)
    size = model.config.vision.image_size
    seen = model.embed_images(torch.zeros(1, 3, size, size, device="meta"))
    words = model.embed_text(there(1, 5))
    cache = DeviceCache(model.config.llama, 1, 700, "meta", torch.float32)
    step = cache.step(there(1, 1), 700)
    for embeds, attend in ((torch.cat((seen, words), dim=1), cache.prompt()), (model.embed_text(there(1, 1)), step)):
        hidden = model.language_model.model(embeds, attend=attend)
        assert model.language_model.lm_head(hidden).device.type == "meta"
    with pytest.raises(RuntimeError, match="on the same device"):
        model.gen_head(hidden)


ONE, SEVEN = "Janus-Pro-1B", "Janus-Pro-7B"


@pytest.mark.parametrize(
    ("name", "compute", "gigabytes", "expected"),
    [
        (SEVEN, torch.bfloat16, 24, "bf16"),
        (SEVEN, torch.bfloat16, 16, "bf16"),
        (SEVEN, torch.bfloat16, 14, "int8"),
        (SEVEN, torch.bfloat16, 12, "int8"),
        (SEVEN, torch.bfloat16, 6, "int8"),
        (SEVEN, torch.float32, 32, "fp32"),
        (SEVEN, torch.float32, 16, "int8"),
        (ONE, torch.float16, 6, "fp16"),
        (ONE, torch.bfloat16, 3, "int8"),
        (ONE, torch.float32, 12, "fp32"),
        (ONE, torch.bfloat16, -1, "int8"),
    ],
)
def test_auto_is_the_best_type_of_the_device_that_fits_else_int8(name, compute, gigabytes, expected):
    found = memory.fitting_precision(
        JanusConfig.preset(name), compute=compute, stored_dtype=None, memory=gigabytes * 1e9
    )
    assert found.name == expected and found.compute == compute


@pytest.mark.parametrize("written", ["int8", "fp8_e4m3fn"])
@pytest.mark.parametrize("gigabytes", [1, 100])
def test_auto_keeps_the_8_bits_a_file_was_written_in(written, gigabytes):
    found = memory.fitting_precision(
        JanusConfig.preset(SEVEN), compute=torch.float16, stored_dtype=written, memory=gigabytes * 1e9
    )
    assert found == Precision.of(written, torch.float16) and found.name == written


def test_auto_turns_to_int8_just_where_one_picture_no_longer_fits():
    config = JanusConfig.preset(SEVEN)
    peak = max(memory.total_drawing_bytes(config, "bf16", 1), memory.total_answering_bytes(config, "bf16", 1))
    for free, expected in ((peak, "bf16"), (peak - 1, "int8")):
        found = memory.fitting_precision(config, compute=torch.bfloat16, stored_dtype="bf16", memory=free)
        assert found.name == expected


def test_every_dtype_is_called_as_it_is_typed():
    assert [Precision.of(name).name for name in NAMES] == [*NAMES]
