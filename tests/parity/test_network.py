"""Encoder, adaptors, heads and LLaMA against the original's tensors, within 1e-4."""

from __future__ import annotations

import pytest
import torch

from janus_core.generation.cache import CPUCache, DeviceCache, KVCache
from janus_core.model.llama import rope_table


@torch.no_grad()
def test_every_stage_of_the_vision_encoder(janus, golden, close, record):
    tower = janus.model.vision_model.vision_tower
    patches, blocks = record(tower.patch_embed), [record(block) for block in tower.blocks]
    out = janus.model.vision_model(golden["vision_heads.pixel_values"])
    close(patches[0], golden["vision_heads.vision.patch_embed"])
    close(patches[0] + tower.pos_embed, golden["vision_heads.vision.after_pos"])
    assert len(blocks) == 3
    for i, outputs in enumerate(blocks):
        close(outputs[0], golden[f"vision_heads.vision.block{i}"])
    close(out, golden["vision_heads.vision.out"])


@torch.no_grad()
def test_aligner_and_picture_embeddings(janus, golden, close):
    close(janus.model.aligner(golden["vision_heads.vision.out"]), golden["vision_heads.aligner.out"])
    close(janus.model.embed_images(golden["vision_heads.pixel_values"]), golden["vision_heads.aligner.out"])


@torch.no_grad()
def test_generation_head_and_code_embeddings(janus, golden, close):
    close(janus.model.gen_head(golden["vision_heads.gen_head.in"]), golden["vision_heads.gen_head.logits"])
    codes = golden["vision_heads.gen_img_embeds.ids"]
    close(janus.model.embed_codes(codes), golden["vision_heads.gen_img_embeds.out"])


@pytest.fixture(params=["cpu", "device"])
def cache(janus, request) -> KVCache:
    """For two rows of 16 tokens: as a CPU has it, and as every other device has it."""
    config = janus.model.config.llama
    if request.param == "cpu":
        return CPUCache(config, 2, 16, torch.float32)
    return DeviceCache(config, 2, 16, "cpu", torch.float32)


@torch.no_grad()
def test_prefill_layer_by_layer_with_its_cache_and_logits(janus, golden, close, record, cache):
    llama = janus.model.language_model.model
    embeds = janus.model.embed_text(golden["language_model.prefill.ids"])
    close(embeds, golden["language_model.prefill.inputs_embeds"])
    first_layer = record(llama.layers[0])
    hidden = llama(embeds, attend=cache.prompt())
    close(first_layer[0], golden["language_model.prefill.hidden_states.1"])
    close(hidden, golden["language_model.prefill.last_hidden_state"])
    close(janus.model.language_model.lm_head(hidden), golden["language_model.prefill.logits"])
    assert not cache.keys[:, :, :, 11:].any() and not cache.values[:, :, :, 11:].any(), "11 tokens are held"
    for layer in range(2):
        close(cache.keys[layer, :, :, :11], golden[f"language_model.prefill.cache.{layer}.k"])
        close(cache.values[layer, :, :, :11], golden[f"language_model.prefill.cache.{layer}.v"])


@torch.no_grad()
def test_cached_steps(janus, golden, close, cache):
    llama = janus.model.language_model.model
    llama(golden["language_model.prefill.inputs_embeds"], attend=cache.prompt())
    steps = golden["language_model.step.inputs_embeds"]
    found = []
    for slot, step in enumerate(steps, 11):
        slots = torch.full((2, 1), slot)
        angles = rope_table(slots, llama.config.head_dim, llama.config.rope_theta, torch.float32)
        found.append(llama(step, angles, cache.step(slots, slot + 1)))
    hidden = torch.stack(found)
    close(hidden, golden["language_model.step.last_hidden_state"])


@torch.no_grad()
def test_prefill_without_a_cache_equals_prefill_and_steps(janus, golden, close):
    llama = janus.model.language_model.model
    steps = golden["language_model.step.inputs_embeds"]
    whole = torch.cat((golden["language_model.prefill.inputs_embeds"], *steps), dim=1)
    expected = (golden["language_model.prefill.last_hidden_state"], *golden["language_model.step.last_hidden_state"])
    close(llama(whole), torch.cat(expected, dim=1))
