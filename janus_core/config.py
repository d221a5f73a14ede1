"""The shape of a Janus model, read from either dialect of `config.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import CheckpointError

# What a config may name instead of spelling it out (FACTS of the published weights).
SIGLIP_PRESETS = {
    "siglip_large_patch16_384": {"width": 1024, "layers": 24, "heads": 16, "patch_size": 16, "mlp_ratio": 4},
}
VQ_PRESETS = {
    "VQ-16": {"ch": 128, "ch_mult": [1, 1, 2, 2, 4], "z_channels": 256, "num_res_blocks": 2},
}
# DeepSeek's configs are sparse: what they leave out is transformers' LlamaConfig default, which is the 7B's size.
LLAMA_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
# What transformers' JanusConfig fills in, and its own writer may leave out.
TRANSFORMERS_VISION_DEFAULTS = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 16,
    "mlp_ratio": 4.0,
    "depth": 2,
}
TRANSFORMERS_VQ_DEFAULTS = {
    "embed_dim": 8,
    "num_embeddings": 16384,
    "latent_channels": 256,
    "base_channels": 128,
    "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "num_hidden_layers": 2,
    "image_token_embed_dim": 2048,
}


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP: `image_size` and `patch_size` in pixels."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float

    @property
    def tokens(self) -> int:
        """Tokens of one picture."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class VQConfig:
    """The VQ tokenizer: `codebook_size` codes of `codebook_dim` numbers."""

    ch: int
    ch_mult: tuple[int, ...]
    z_channels: int
    num_res_blocks: int
    codebook_size: int
    codebook_dim: int

    @property
    def downsampling(self) -> int:
        """Pixels a side of one code."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class LlamaConfig:
    """The transformer. `max_position_embeddings` is the longest context in tokens."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class JanusConfig:
    """A whole Janus: two kinds of eyes, one transformer, and what joins them."""

    vision: VisionConfig
    vq: VQConfig
    llama: LlamaConfig
    aligner_depth: int
    gen_aligner_depth: int
    gen_head_width: int

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of a drawn picture, in codes."""
        side = self.vision.image_size // self.vq.downsampling
        return side, side

    @classmethod
    def from_dict(cls, raw: dict[str, Any], source: str = "config.json") -> JanusConfig:
        """Read a parsed `config.json` of DeepSeek's dialect or transformers' own.

        Raises CheckpointError when it describes another model or leaves out what no preset knows.
        """
        readers = {"multi_modality": _from_deepseek, "janus": _from_transformers}
        kind = raw.get("model_type")
        if kind not in tuple(readers):
            raise CheckpointError(
                f"{source} describes a model of type {kind!r}, not Janus ('multi_modality' or 'janus'): "
                "choose the folder of a Janus or Janus-Pro checkpoint."
            )
        try:
            config = readers[kind](raw)
        except KeyError as error:
            raise CheckpointError(
                f"{source} lacks the entry {error.args[0]!r}, which a Janus config needs: "
                "it belongs to another model or was cut short, so fetch it again from the model's page."
            ) from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{source} cannot be read as a Janus config ({error}): fetch it again.") from error
        _check(config, source)
        return config

    @classmethod
    def preset(cls, name: str) -> JanusConfig:
        """The config of a published model: 'Janus-1.3B', 'Janus-Pro-1B' or 'Janus-Pro-7B'."""
        return cls.from_dict(published_config(name), source=name)


def published_config(name: str) -> dict[str, Any]:
    """The published model's config in DeepSeek's dialect, as sparse as DeepSeek writes it."""
    language: dict[str, Any] = {"max_position_embeddings": 16384, "model_type": "llama", "vocab_size": 102400}
    if name in ("Janus-1.3B", "Janus-Pro-1B"):
        hidden = 2048
        language |= {"hidden_size": hidden, "intermediate_size": 5632, "num_hidden_layers": 24}
        language |= {"num_attention_heads": 16, "num_key_value_heads": 16}
    elif name == "Janus-Pro-7B":
        hidden = 4096
        language |= {"num_hidden_layers": 30}
    else:
        raise CheckpointError(f"No published Janus is {name!r}: choose Janus-1.3B, Janus-Pro-1B or Janus-Pro-7B.")

    def projector(kind: str, width: int) -> dict[str, Any]:
        params = {"depth": 2, "input_dim": width, "n_embed": hidden, "projector_type": "mlp_gelu"}
        return {"cls": "MlpProjector", "model_type": kind, "params": params}

    head = {"image_token_embed": hidden, "image_token_size": 16384, "n_embed": hidden}
    vision = {"image_size": 384, "model_name": "siglip_large_patch16_384", "select_feature": "same", "select_layer": -1}
    return {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
        "vision_config": {"cls": "CLIPVisionTower", "model_type": "vision", "params": vision},
        "aligner_config": projector("aligner", 1024),
        "gen_vision_config": {
            "cls": "VQ-16",
            "model_type": "gen_vision",
            "params": {"image_token_size": 16384, "n_embed": 8},
        },
        "gen_aligner_config": projector("gen_aligner", 8),
        "gen_head_config": {"cls": "vision_head", "model_type": "gen_head", "params": head},
        "language_config": language,
    }


def _llama(raw: dict[str, Any]) -> LlamaConfig:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}  # newer and older spelling of the same entry
    raw = LLAMA_DEFAULTS | {k: v for k, v in rope.items() if k == "rope_theta"} | raw
    if raw.get("num_key_value_heads", raw["num_attention_heads"]) != raw["num_attention_heads"]:
        raise ValueError("num_key_value_heads differs from num_attention_heads, which no Janus has")
    if rope.get("rope_type", "default") != "default" or "factor" in rope:
        raise ValueError("RoPE scaling is set, which no Janus has")
    return LlamaConfig(
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        num_hidden_layers=int(raw["num_hidden_layers"]),
        num_attention_heads=int(raw["num_attention_heads"]),
        vocab_size=int(raw["vocab_size"]),
        max_position_embeddings=int(raw["max_position_embeddings"]),
        rms_norm_eps=float(raw["rms_norm_eps"]),
        rope_theta=float(raw["rope_theta"]),
    )


def _from_deepseek(raw: dict[str, Any]) -> JanusConfig:
    vision = raw["vision_config"]["params"]
    vision = SIGLIP_PRESETS.get(vision.get("model_name"), {}) | vision
    gen_vision = raw["gen_vision_config"]["params"]
    gen_vision = VQ_PRESETS.get(raw["gen_vision_config"].get("cls"), {}) | gen_vision
    for part in ("aligner_config", "gen_aligner_config"):
        kind = raw[part]["params"]["projector_type"]
        if kind != "mlp_gelu":
            raise ValueError(f"{part} names the projector {kind!r}, where every Janus has 'mlp_gelu'")
    return JanusConfig(
        vision=VisionConfig(
            image_size=int(vision["image_size"]),
            patch_size=int(vision["patch_size"]),
            width=int(vision["width"]),
            layers=int(vision["layers"]),
            heads=int(vision["heads"]),
            mlp_ratio=float(vision["mlp_ratio"]),
        ),
        vq=VQConfig(
            ch=int(gen_vision["ch"]),
            ch_mult=tuple(int(m) for m in gen_vision["ch_mult"]),
            z_channels=int(gen_vision["z_channels"]),
            num_res_blocks=int(gen_vision["num_res_blocks"]),
            codebook_size=int(gen_vision["image_token_size"]),
            codebook_dim=int(gen_vision["n_embed"]),
        ),
        llama=_llama(raw["language_config"]),
        aligner_depth=int(raw["aligner_config"]["params"]["depth"]),
        gen_aligner_depth=int(raw["gen_aligner_config"]["params"]["depth"]),
        gen_head_width=int(raw["gen_head_config"]["params"]["image_token_embed"]),
    )


def _from_transformers(raw: dict[str, Any]) -> JanusConfig:
    vision = TRANSFORMERS_VISION_DEFAULTS | raw["vision_config"]
    vq = TRANSFORMERS_VQ_DEFAULTS | raw["vq_config"]
    return JanusConfig(
        vision=VisionConfig(
            image_size=int(vision["image_size"]),
            patch_size=int(vision["patch_size"]),
            width=int(vision["hidden_size"]),
            layers=int(vision["num_hidden_layers"]),
            heads=int(vision["num_attention_heads"]),
            mlp_ratio=float(vision["mlp_ratio"]),
        ),
        vq=VQConfig(
            ch=int(vq["base_channels"]),
            ch_mult=tuple(int(m) for m in vq["channel_multiplier"]),
            z_channels=int(vq["latent_channels"]),
            num_res_blocks=int(vq["num_res_blocks"]),
            codebook_size=int(vq["num_embeddings"]),
            codebook_dim=int(vq["embed_dim"]),
        ),
        llama=_llama(raw["text_config"]),
        aligner_depth=int(vision["depth"]),
        gen_aligner_depth=int(vq["num_hidden_layers"]),
        gen_head_width=int(vq["image_token_embed_dim"]),
    )


def _check(config: JanusConfig, source: str) -> None:
    vision, llama = config.vision, config.llama
    for what, whole, part in (
        ("hidden_size by num_attention_heads", llama.hidden_size, llama.num_attention_heads),
        ("vision width by heads", vision.width, vision.heads),
        ("image_size by patch_size", vision.image_size, vision.patch_size),
        ("image_size by the VQ's downsampling", vision.image_size, config.vq.downsampling),
        ("head size by 2", llama.head_dim if llama.num_attention_heads else 0, 2),
        ("ch by GroupNorm's groups", config.vq.ch, 32),
        ("vocab_size by 1", llama.vocab_size, 1),
        ("intermediate_size by 1", llama.intermediate_size, 1),
    ):
        if part < 1 or whole < 1 or whole % part:
            raise CheckpointError(f"{source} is not a Janus config: {what} ({whole} by {part}) does not divide evenly.")
