"""Other implementations over the same weights as ours: the original's loop, and transformers' Janus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration

from janus_core.bench.engine import SPECIAL
from janus_core.generation.codes import unconditional
from janus_core.generation.text import embed_prompts
from janus_core.model.janus import JanusModel
from janus_core.weights.names import split_fused, transformers_keys

CFG_WEIGHT = 5.0
Token = Callable[[], None]


def transformers_twin(model: JanusModel) -> Any:
    """transformers' JanusForConditionalGeneration over the tensors of `model`, without a copy."""
    vision, vq, llama = model.config.vision, model.config.vq, model.config.llama
    config = JanusConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": llama.vocab_size,
            "hidden_size": llama.hidden_size,
            "intermediate_size": llama.intermediate_size,
            "num_hidden_layers": llama.num_hidden_layers,
            "num_attention_heads": llama.num_attention_heads,
            "num_key_value_heads": llama.num_attention_heads,
            "max_position_embeddings": llama.max_position_embeddings,
        },
        vision_config={
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "mlp_ratio": vision.mlp_ratio,
            "projection_dim": llama.hidden_size,
            "depth": model.config.aligner_depth,
            "num_image_tokens": vision.tokens,
        },
        vq_config={
            "embed_dim": vq.codebook_dim,
            "num_embeddings": vq.codebook_size,
            "latent_channels": vq.z_channels,
            "base_channels": vq.ch,
            "channel_multiplier": list(vq.ch_mult),
            "num_res_blocks": vq.num_res_blocks,
            "num_patches": model.config.grid[0],
            "projection_dim": llama.hidden_size,
            "image_token_embed_dim": llama.hidden_size,
            "num_hidden_layers": model.config.gen_aligner_depth,
        },
        image_token_id=SPECIAL["image"],
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        twin = JanusForConditionalGeneration(config)
        head, width = twin.model.generation_head, model.config.gen_head_width  # its config has one width for both
        head.proj_out = torch.nn.Linear(llama.hidden_size, width)
        head.vision_head = torch.nn.Linear(width, vq.codebook_size)
    state: dict[str, Tensor] = {}
    for key, tensor in split_fused(model.state_dict()).items():
        names = transformers_keys(key)
        parts = tensor.chunk(len(names))
        if key.endswith("pos_embed"):
            parts = (tensor[0],)
        state |= zip(names, parts, strict=True)
    twin.load_state_dict(state, strict=False, assign=True)
    _fill_buffers(twin, next(model.parameters()).device)
    twin.lm_head.weight = torch.nn.Parameter(state["lm_head.weight"], requires_grad=False)
    twin.generation_config = GenerationConfig(
        bos_token_id=SPECIAL["bos"],
        eos_token_id=SPECIAL["eos"],
        pad_token_id=SPECIAL["pad"],
        generation_kwargs={"boi_token_id": SPECIAL["begin_of_image"]},
        do_sample=True,
        guidance_scale=CFG_WEIGHT,
    )
    return twin.eval()


def open_transformers(path: Path, dtype: torch.dtype) -> torch.nn.Module:
    return JanusForConditionalGeneration.from_pretrained(path, dtype=dtype)


def _fill_buffers(twin: Any, device: torch.device) -> None:
    """Buffers are not in a checkpoint: compute those that are on the meta device."""
    for module in twin.modules():
        if hasattr(module, "inv_freq"):
            fresh = type(module)(module.config)
            module.inv_freq = fresh.inv_freq.to(device)
            module.original_inv_freq = module.inv_freq
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":
                module.position_ids = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)


class Transformers:
    """transformers' own Janus and its static cache."""

    name = "transformers"

    def __init__(self, twin: Any, device: torch.device):
        self.twin, self.device = twin, device

    @torch.no_grad()
    def draw(self, prompt: list[int], *, steps: int, count: int, token: Token) -> Tensor:
        ids = torch.tensor([prompt], device=self.device)
        tokens = self.twin.model.vision_model.config
        whole, tokens.num_image_tokens = tokens.num_image_tokens, steps
        hook = self.twin.model.generation_head.register_forward_hook(lambda *_: token())
        try:
            return self.twin.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_mode="image",
                num_return_sequences=count,
                max_length=len(prompt) + steps,
            )
        finally:
            tokens.num_image_tokens = whole
            hook.remove()

    @torch.no_grad()
    def answer(self, prompt: list[int], pixels: Tensor, *, count: int, token: Token) -> None:
        ids = torch.tensor([prompt], device=self.device)
        hook = self.twin.lm_head.register_forward_hook(lambda *_: token())
        self.twin.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            generation_mode="text",
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
        )
        hook.remove()


class Original:
    """The original's loop as DeepSeek published it: all 2N prompts prefilled, a cache that grows, one multinomial draw."""

    name = "original loop"

    def __init__(self, model: JanusModel, twin: Any, device: torch.device):
        self.model, self.llama, self.device = model, twin.model.language_model, device

    @torch.no_grad()
    def draw(self, prompt: list[int], *, steps: int, count: int, token: Token) -> Tensor:
        rows = torch.tensor([prompt, unconditional(prompt, SPECIAL["pad"])] * count, device=self.device)
        embeds = self.model.embed_text(rows)
        drawn = torch.zeros(count, steps, dtype=torch.long, device=self.device)
        past = None
        for step in range(steps):
            out = self.llama(inputs_embeds=embeds, use_cache=True, past_key_values=past)
            past = out.past_key_values
            logits = self.model.gen_head(out.last_hidden_state[:, -1])
            token()
            cond, uncond = logits[0::2], logits[1::2]
            p = (uncond + CFG_WEIGHT * (cond - uncond)).softmax(dim=-1)
            drawn[:, step] = torch.multinomial(p, 1).squeeze(-1)
            embeds = self.model.embed_codes(drawn[:, step].repeat_interleave(2)).unsqueeze(1)
        return drawn

    @torch.no_grad()
    def answer(self, prompt: list[int], pixels: Tensor, *, count: int, token: Token) -> None:
        features = self.model.embed_images(pixels)
        ids = {"image_id": SPECIAL["image"], "pad": SPECIAL["pad"]}
        embeds, _ = embed_prompts(self.model, [prompt], **ids, features=features, device=self.device)
        past = None
        for _ in range(count):
            out = self.llama(inputs_embeds=embeds, use_cache=True, past_key_values=past)
            past = out.past_key_values
            chosen = self.model.language_model.lm_head(out.last_hidden_state[:, -1:]).argmax(-1)
            token()
            embeds = self.model.embed_text(chosen)
