"""What is measured: three ways to draw and answer with the very same weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor

from ..generation.cpu_kernels import fast_layers
from ..generation.execution import Execution
from ..generation.image import Drawing, draw_codes, unconditional
from ..generation.sampling import Sampling
from ..generation.text import answer_ids, embed_prompts
from ..model.janus import JanusModel
from ..weights.names import split_fused, transformers_keys

CFG_WEIGHT = 5.0
Token = Callable[[], None]
SPECIAL = {"bos": 0, "eos": 1, "pad": 2, "begin_of_image": 3}


class Engine(Protocol):
    """One implementation. `prompt` is a list of ids that ends with begin_of_image; nothing is said of what comes out.

    `ready` is what it does once for a whole picture, however many its steps; `draw` belongs inside it. `token` is
    called each time that the model has said what comes next.
    """

    name: str

    def ready(self, count: int) -> AbstractContextManager[None]: ...

    def draw(self, prompt: list[int], steps: int, count: int, token: Token) -> Tensor: ...

    def answer(self, prompt: list[int], image_id: int, pixels: Tensor, count: int, token: Token) -> None: ...


class Ours:
    def __init__(self, model: JanusModel, device: torch.device, name: str = "ours", kernels: Any = None):
        self.model, self.name, self.execution = model, name, Execution(device, kernels=kernels)

    def ready(self, count: int) -> AbstractContextManager[None]:
        return fast_layers(self.model.drawing_parts, 2 * count, self.execution.device)

    def draw(self, prompt: list[int], steps: int, count: int, token: Token) -> Tensor:
        drawing = Drawing(prompt=prompt, pad=SPECIAL["pad"], steps=steps, count=count)
        return draw_codes(self.model, drawing, self.execution, lambda *_: token())

    @torch.no_grad()
    def answer(self, prompt: list[int], image_id: int, pixels: Tensor, count: int, token: Token) -> None:
        device, greedy = self.execution.device, Sampling(0.0)
        features = self.model.embed_images(pixels)
        special = {"image_id": image_id, "pad": SPECIAL["pad"]}
        start = embed_prompts(self.model, [prompt], **special, features=features, device=device)
        with fast_layers([self.model.language_model], 1, device):
            settings = {"eos": -1, "max_new_tokens": count, "sampling": greedy}
            answer_ids(self.model, *start, self.execution, **settings, progress=lambda *_: token())


def transformers_twin(model: JanusModel) -> Any:
    """transformers' JanusForConditionalGeneration over the very tensors of `model`, no copy made."""
    from transformers import GenerationConfig, JanusConfig, JanusForConditionalGeneration

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
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        twin = JanusForConditionalGeneration(config)
        head, width = twin.model.generation_head, model.config.gen_head_width  # transformers knows only one width
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


def _fill_buffers(twin: Any, device: torch.device) -> None:
    """Buffers are not in a checkpoint: rebuild what was made on the meta device."""
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

    def ready(self, count: int) -> AbstractContextManager[None]:
        return nullcontext()

    @torch.no_grad()
    def draw(self, prompt: list[int], steps: int, count: int, token: Token) -> Tensor:
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
    def answer(self, prompt: list[int], image_id: int, pixels: Tensor, count: int, token: Token) -> None:
        ids = torch.tensor([prompt], device=self.device)
        self.twin.config.image_token_id = self.twin.model.config.image_token_id = image_id
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

    def ready(self, count: int) -> AbstractContextManager[None]:
        return nullcontext()

    @torch.no_grad()
    def draw(self, prompt: list[int], steps: int, count: int, token: Token) -> Tensor:
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
    def answer(self, prompt: list[int], image_id: int, pixels: Tensor, count: int, token: Token) -> None:
        features = self.model.embed_images(pixels)
        special = {"image_id": image_id, "pad": SPECIAL["pad"]}
        embeds, _ = embed_prompts(self.model, [prompt], **special, features=features, device=self.device)
        past = None
        for _ in range(count):
            out = self.llama(inputs_embeds=embeds, use_cache=True, past_key_values=past)
            past = out.past_key_values
            word = self.model.language_model.lm_head(out.last_hidden_state[:, -1:]).argmax(-1)
            token()
            embeds = self.model.embed_text(word)
