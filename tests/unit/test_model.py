"""How the network is built: injected layers, exact angles, no needless imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import janus_core
from janus_core.generation.cache import CPUCache, DeviceCache, weighted_sums
from janus_core.model.llama import rope_table
from janus_core.model.quantised import Layers

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"
LAYERS = ("Linear", "Conv2d", "Embedding", "LayerNorm", "GroupNorm", "RMSNorm")


def test_every_layer_with_weights_comes_from_the_injected_operations(janus):
    mine = {name: type(name, (getattr(nn, name),), {}) for name in LAYERS}
    injected = janus_core.load(TINY, layers=Layers(SimpleNamespace(**mine)))
    strangers = {
        name: type(module).__name__
        for name, module in injected.model.named_modules()
        if list(module.parameters(recurse=False)) and type(module) not in mine.values()
    }
    assert strangers == {"vision_model.vision_tower": "VisionTower"}  # its pos_embed is a bare parameter
    assert torch.equal(injected.generate("a cat", seed=1).ids, janus.generate("a cat", seed=1).ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rotary_angles_stay_exact_in_low_precision(dtype):
    positions = torch.tensor([[0, 1, 600, 4095, 16383]])
    powers = torch.arange(0, 64, 2, dtype=torch.float64) / 64
    angles = positions[0, :, None].double() * 10000.0**-powers
    cos, sin = rope_table(positions, 64, 10000.0, dtype)
    assert cos.dtype == dtype and cos.shape == (1, 1, 5, 64)
    rounding = torch.finfo(dtype).eps + 16384 * torch.finfo(torch.float32).eps  # of the value, and of the float32 angle
    for table, exact in ((cos, angles.cos()), (sin, angles.sin())):
        torch.testing.assert_close(table[0, 0].double(), exact.repeat(1, 2), atol=rounding, rtol=0)


CACHES = pytest.mark.parametrize("kind", [CPUCache, DeviceCache])


def cache_of(kind, llama, rows: int, capacity: int) -> CPUCache | DeviceCache:
    device = ("cpu",) if kind is DeviceCache else ()
    return kind(llama.config, rows, capacity, *device, torch.float64)


def angles(llama, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rope_table(positions, llama.config.head_dim, llama.config.rope_theta, torch.float64)


@CACHES
@torch.no_grad()
def test_several_tokens_after_a_filled_cache_equal_the_same_tokens_read_at_once(janus64, kind):
    llama = janus64.model.language_model.model
    embeds = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cache = cache_of(kind, llama, 2, 9)
    head = llama(embeds[:, :5], attend=cache.prompt())
    slots = torch.arange(5, 9).repeat(2, 1)
    tail = llama(embeds[:, 5:], angles(llama, slots), cache.step(slots, 9))
    torch.testing.assert_close(torch.cat((head, tail), dim=1), llama(embeds))


@CACHES
@torch.no_grad()
def test_rows_may_write_to_slots_of_their_own(janus64, kind):
    llama = janus64.model.language_model.model
    embeds = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cache = cache_of(kind, llama, 2, 9)
    llama(embeds[:, :8], attend=cache.prompt())
    slots = torch.tensor([[8], [3]])  # the second row has the rest of its tokens replaced
    found = llama(embeds[:, 8:], angles(llama, slots), cache.step(slots, 9))
    for row, slot in enumerate(slots[:, 0].tolist()):
        alone = torch.cat((embeds[row : row + 1, :slot], embeds[row : row + 1, 8:]), dim=1)
        torch.testing.assert_close(found[row], llama(alone)[0, -1:])


@CACHES
@torch.no_grad()
def test_a_copied_cache_continues_as_its_prefix_would(janus64, kind):
    llama = janus64.model.language_model.model
    embeds = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prefix = cache_of(kind, llama, 2, 5)
    llama(embeds[:, :5], attend=prefix.prompt())
    cache = cache_of(kind, llama, 6, 8)
    cache.copy_rows(prefix, torch.tensor([0, 0, 0, 1, 1, 1]))
    slots = torch.full((6, 1), 5)
    after = llama(embeds[:, 5:].repeat_interleave(3, dim=0), angles(llama, slots), cache.step(slots, 6))
    torch.testing.assert_close(after, llama(embeds)[:, -1:].repeat_interleave(3, dim=0))


@CACHES
@torch.no_grad()
def test_a_cache_of_some_rows_continues_as_these_would(janus64, kind):
    llama = janus64.model.language_model.model
    embeds = torch.randn(3, 6, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = cache_of(kind, llama, 3, 8)
    llama(embeds[:, :5], attend=full.prompt())
    some = cache_of(kind, llama, 2, 8)
    some.copy_rows(full, torch.tensor([2, 0]))
    slots = torch.full((2, 1), 5)
    after = llama(embeds[[2, 0], 5:], angles(llama, slots), some.step(slots, 6))
    torch.testing.assert_close(after, llama(embeds)[[2, 0], -1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (2, 3, 64, 16), (8, 16, 640, 128), (8, 16, 128, 640)])
def test_weighted_sums_are_one_querys_product(dtype, shape):
    random = torch.Generator().manual_seed(sum(shape))
    rows = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
    weights = torch.randn((*shape[:2], 1, shape[2]), generator=random, dtype=torch.float64).to(dtype)
    exact = weights.double() @ rows.double()
    sums = weighted_sums(weights, rows)
    assert sums.dtype == dtype
    spread = rows.double().pow(2).sum(dim=2, keepdim=True).sqrt() * weights.double().norm(dim=-1, keepdim=True)
    assert ((sums.double() - exact).abs() <= 2 * torch.finfo(dtype).eps * spread).all()


def test_every_convolution_of_the_decoder_has_its_channels_innermost(janus):
    seen = []
    vq = janus.model.gen_vision_model
    convolutions = [layer for layer in vq.decoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in convolutions]
    vq.decode(torch.zeros(1, 36, dtype=torch.long), (6, 6))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(convolutions)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_loading_imports_no_compiler():
    code = (
        "import sys, janus_core; janus_core.load(); print([m for m in sys.modules if m in ('sympy', 'torch._dynamo')])"
    )
    root = Path(janus_core.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)  # noqa: S603
    assert done.stdout.strip() == "[]"


def test_importing_the_core_brings_in_no_host_and_no_needless_library():
    banned = ("comfy", "comfy_api", "folder_paths", "nodes", "torchvision", "einops", "timm", "transformers")
    code = f"import sys, janus_core; print([m for m in {banned} if m in sys.modules])"
    root = Path(janus_core.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)  # noqa: S603
    assert done.stdout.strip() == "[]"
