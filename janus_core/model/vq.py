"""The VQ tokenizer: pixels <-> a grid of codes. Layout and names follow LlamaGen's VQ-16, as in DeepSeek's files."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import VQConfig


def group_norm(channels: int, ops: Any, factory: dict[str, Any]) -> nn.Module:
    """GroupNorm of 32 groups for [B, channels, h, w]."""
    return ops.GroupNorm(32, channels, eps=1e-6, affine=True, **factory)


class ResnetBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.norm1 = group_norm(channels_in, ops, factory)
        self.conv1 = ops.Conv2d(channels_in, channels_out, 3, padding=1, **factory)
        self.norm2 = group_norm(channels_out, ops, factory)
        self.conv2 = ops.Conv2d(channels_out, channels_out, 3, padding=1, **factory)
        if channels_in != channels_out:
            self.nin_shortcut = ops.Conv2d(channels_in, channels_out, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        if self.conv1.in_channels != self.conv1.out_channels:
            x = self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.norm = group_norm(channels, ops, factory)
        self.q = ops.Conv2d(channels, channels, 1, **factory)
        self.k = ops.Conv2d(channels, channels, 1, **factory)
        self.v = ops.Conv2d(channels, channels, 1, **factory)
        self.proj_out = ops.Conv2d(channels, channels, 1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # One head: [B, 1, h * w, C]
        q, k, v = (project(h).flatten(2).transpose(1, 2).unsqueeze(1) for project in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(h.squeeze(1).transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    def __init__(self, channels: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 3, stride=2, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """One resolution: residual blocks, each followed by attention at the lowest resolution, then a change of size."""

    def __init__(
        self, widths: list[int], ops: Any, factory: dict, *, attention: bool, resample: type[nn.Module] | None
    ):
        super().__init__()
        self.res = nn.ModuleList(ResnetBlock(a, b, ops, factory) for a, b in pairwise(widths))
        self.attn = nn.ModuleList(AttnBlock(width, ops, factory) for width in widths[1:] if attention)
        if resample is not None:
            self.add_module(resample.__name__.lower(), resample(widths[-1], ops, factory))
        self.resample_name = resample.__name__.lower() if resample is not None else None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.res):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.get_submodule(self.resample_name)(x) if self.resample_name else x


def middle(channels: int, ops: Any, factory: dict[str, Any]) -> nn.Sequential:
    """The blocks at the lowest resolution: [B, channels, h, w] -> the same shape."""
    return nn.Sequential(
        ResnetBlock(channels, channels, ops, factory),
        AttnBlock(channels, ops, factory),
        ResnetBlock(channels, channels, ops, factory),
    )


class Encoder(nn.Module):
    def __init__(self, config: VQConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        widths = [config.ch * m for m in config.ch_mult]
        last = len(widths) - 1
        self.conv_in = ops.Conv2d(3, config.ch, 3, padding=1, **factory)
        self.conv_blocks = nn.ModuleList(
            Level(
                [widths[max(i - 1, 0)] if i else config.ch] + [width] * config.num_res_blocks,
                ops,
                factory,
                attention=i == last,
                resample=Downsample if i != last else None,
            )
            for i, width in enumerate(widths)
        )
        self.mid = middle(widths[-1], ops, factory)
        self.norm_out = group_norm(widths[-1], ops, factory)
        self.conv_out = ops.Conv2d(widths[-1], config.z_channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    def __init__(self, config: VQConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        widths = [config.ch * m for m in reversed(config.ch_mult)]
        last = len(widths) - 1
        self.conv_in = ops.Conv2d(config.z_channels, widths[0], 3, padding=1, **factory)
        self.mid = middle(widths[0], ops, factory)
        self.conv_blocks = nn.ModuleList(
            Level(
                [widths[max(i - 1, 0)]] + [width] * (config.num_res_blocks + 1),
                ops,
                factory,
                attention=i == 0,
                resample=Upsample if i != last else None,
            )
            for i, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[-1], ops, factory)
        self.conv_out = ops.Conv2d(widths[-1], 3, 3, padding=1, **factory)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in self.conv_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Quantizer(nn.Module):
    """The codebook. Both sides are l2-normalised before they are compared, and a code again before it is decoded."""

    def __init__(self, config: VQConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.embedding = ops.Embedding(config.codebook_size, config.codebook_dim, **factory)

    def lookup(self, ids: Tensor) -> Tensor:
        """ids [...] -> unit-length codes [..., d]."""
        return F.normalize(self.embedding(ids), dim=-1)

    def nearest(self, z: Tensor) -> Tensor:
        """Unit-length z [..., d] -> ids [...] of the nearest code (the largest dot product)."""
        codebook = self.lookup(torch.arange(self.embedding.num_embeddings, device=z.device))
        return (z @ codebook.to(z.dtype).T).argmax(dim=-1)


class VQModel(nn.Module):
    """`gen_vision_model`: pictures to codes and back.

    Sides are multiples of ``2 ** (len(ch_mult) - 1)`` pixels (16 for VQ-16) and need not be square.
    """

    def __init__(self, config: VQConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.encoder = Encoder(config, ops, factory)
        self.decoder = Decoder(config, ops, factory)
        self.quantize = Quantizer(config, ops, factory)
        self.quant_conv = ops.Conv2d(config.z_channels, config.codebook_dim, 1, **factory)
        self.post_quant_conv = ops.Conv2d(config.codebook_dim, config.z_channels, 1, **factory)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [B, 3, H, W] in -1..1 -> unit-length codes [B, d, h, w] and their ids, long [B, h * w]."""
        z = F.normalize(self.quant_conv(self.encoder(pixels)), dim=1).permute(0, 2, 3, 1)  # [B, h, w, d]
        ids = self.quantize.nearest(z)
        return self.quantize.lookup(ids).permute(0, 3, 1, 2), ids.flatten(1)

    def decode(self, ids: Tensor, grid: tuple[int, int]) -> Tensor:
        """ids long [B, h * w] and grid (h, w) -> pixels [B, 3, H, W], about -1..1 and not clipped."""
        # permute leaves the tensor in channels-last memory order, which later layers keep and which makes convolutions faster.
        codes = self.quantize.lookup(ids).unflatten(1, grid).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(codes))
