"""The LLaMA decoder that both reads and draws. Layers that share an input are fused: q, k, v and gate, up."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import LlamaConfig

# Attention of one layer: (layer, q, k, v), each of the last three [B, heads, T, head_dim] -> [B, heads, T, head_dim].
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


def causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each token looks at itself and at those before it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def rope_table(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """positions [B, T] -> cos and sin [B, 1, T, head_dim] of the rotary angles.

    Angles are kept in float32 or better whatever the weights' dtype: in bfloat16 they are off by up to 0.7 rad
    at position 600.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    powers = torch.arange(0, head_dim, 2, device=positions.device, dtype=exact) / head_dim
    angles = positions[:, None, :, None].to(exact) * theta**-powers
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn x [..., B, heads, T, head_dim] by its rotary angles; halves are paired, as LLaMA does."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.layer, self.heads = layer, config.num_attention_heads
        width = config.hidden_size
        self.qkv_proj = ops.Linear(width, 3 * width, bias=False, **factory)
        self.o_proj = ops.Linear(width, width, bias=False, **factory)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3, B, heads, T, head_dim]
        (q, k), v = rotate(qkv[:2], *rope), qkv[2]
        return self.o_proj(attend(self.layer, q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config: LlamaConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.gate_up_proj = ops.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False, **factory)
        self.down_proj = ops.Linear(config.intermediate_size, config.hidden_size, bias=False, **factory)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class DecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig, layer: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.input_layernorm = ops.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, **factory)
        self.self_attn = Attention(config, layer, ops, factory)
        self.post_attention_layernorm = ops.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, **factory)
        self.mlp = Mlp(config, ops, factory)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """The transformer without its text head."""

    def __init__(self, config: LlamaConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.config = config
        self.embed_tokens = ops.Embedding(config.vocab_size, config.hidden_size, **factory)
        self.layers = nn.ModuleList(DecoderLayer(config, i, ops, factory) for i in range(config.num_hidden_layers))
        self.norm = ops.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, **factory)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None, attend: Attend = causal) -> Tensor:
        """Embeddings [B, T, D] -> hidden states [B, T, D], the final norm applied.

        `rope` are the tokens' rotary angles from `rope_table`, by default of positions 0..T-1. `attend` is each layer's
        attention: causal over these tokens, or that of a KV cache.
        """
        if rope is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
            rope = rope_table(positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        for layer in self.layers:
            x = layer(x, rope, attend)
        return self.norm(x)


class LanguageModel(nn.Module):
    """`language_model`: the transformer and its text head, two separate weights that are never tied."""

    def __init__(self, config: LlamaConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.model = Llama(config, ops, factory)
        self.lm_head = ops.Linear(config.hidden_size, config.vocab_size, bias=False, **factory)
