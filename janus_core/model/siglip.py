"""SigLIP, the encoder for understanding: pixels -> one feature per patch. Names follow timm's ViT, as in DeepSeek's files."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VisionConfig


class PatchEmbed(nn.Module):
    def __init__(self, config: VisionConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.proj = ops.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, **factory)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(pixels).flatten(2).transpose(1, 2)  # [B, n, width]


class Attention(nn.Module):
    def __init__(self, config: VisionConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.heads = config.heads
        self.qkv = ops.Linear(config.width, 3 * config.width, **factory)
        self.proj = ops.Linear(config.width, config.width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, heads, n, d]
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config: VisionConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        hidden = int(config.width * config.mlp_ratio)
        self.fc1 = ops.Linear(config.width, hidden, **factory)
        self.fc2 = ops.Linear(hidden, config.width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: VisionConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.norm1 = ops.LayerNorm(config.width, eps=1e-6, **factory)
        self.attn = Attention(config, ops, factory)
        self.norm2 = ops.LayerNorm(config.width, eps=1e-6, **factory)
        self.mlp = Mlp(config, ops, factory)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTower(nn.Module):
    """No class token, no pooling: every block and the final norm, as the aligner was trained to read them."""

    def __init__(self, config: VisionConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.patch_embed = PatchEmbed(config, ops, factory)
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, config.width, **factory))
        self.blocks = nn.ModuleList(Block(config, ops, factory) for _ in range(config.layers))
        self.norm = ops.LayerNorm(config.width, eps=1e-6, **factory)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        x = x + self.pos_embed.to(device=x.device, dtype=x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class VisionModel(nn.Module):
    """`vision_model`: pixels [B, 3, S, S] in -1..1 -> features [B, n, width]."""

    def __init__(self, config: VisionConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.vision_tower = VisionTower(config, ops, factory)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vision_tower(pixels)
