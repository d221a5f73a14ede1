"""The shape of a Janus model, read from a `config.json` of DeepSeek's layout or transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .config_limits import check_limits
from .errors import CheckpointError, shown
from .published import PUBLISHED

# Sizes that a config may name instead of listing them.
SIGLIP_PRESETS = {
    "siglip_large_patch16_384": {"width": 1024, "layers": 24, "heads": 16, "patch_size": 16, "mlp_ratio": 4}
}
VQ_PRESETS = {"VQ-16": {"ch": 128, "ch_mult": [1, 1, 2, 2, 4], "z_channels": 256, "num_res_blocks": 2}}
# DeepSeek's configs leave out whatever equals the default of transformers' LlamaConfig, which is the 7B's size.
LLAMA_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
# The defaults of transformers' JanusConfig, which a config of that layout may leave out.
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
    "image_token_embed_dim": 2048,  # nosec B105 # a width
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
        """Tokens that one picture takes in a prompt."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class VQConfig:
    """The VQ tokenizer: a codebook of `codebook_size` codes, each a vector of `codebook_dim`."""

    ch: int
    ch_mult: tuple[int, ...]
    z_channels: int
    num_res_blocks: int
    codebook_size: int
    codebook_dim: int

    @property
    def downsampling(self) -> int:
        """Side in pixels of the square that one code covers."""
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
    """A whole Janus: SigLIP, the VQ tokenizer, the transformer, and the layers that join them."""

    vision: VisionConfig
    vq: VQConfig
    llama: LlamaConfig
    aligner_depth: int
    gen_aligner_depth: int
    gen_head_width: int

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of a generated picture, in codes."""
        side = self.vision.image_size // self.vq.downsampling
        return side, side

    @classmethod
    def from_dict(cls, raw: dict[str, Any], *, source: str = "config.json") -> JanusConfig:
        """Read a parsed `config.json` of DeepSeek's layout or transformers'. `source` names it in errors.

        Raises CheckpointError when it describes another model, or leaves out an entry that has no default.
        """
        model_type = raw.get("model_type")
        read = {"multi_modality": _from_deepseek, "janus": _from_transformers}.get(str(model_type))
        if read is None:
            raise CheckpointError(
                f"{source} describes a model of type {shown(repr(model_type))}, not Janus ('multi_modality' or 'janus'): "
                "choose the folder of a Janus or Janus-Pro checkpoint."
            )
        if other := _other_model(raw):
            raise CheckpointError(
                f"{source} describes {other}, and this pack cannot open it: choose the folder of a Janus or Janus-Pro "
                "checkpoint as its authors published it, in bf16, fp16 or fp32."
            )
        try:
            config = read(raw)
        except KeyError as error:
            raise CheckpointError(
                f"{source} lacks the entry {error.args[0]!r}, which a Janus config needs: "
                "it belongs to another model or was cut short, so fetch it again from the model's page."
            ) from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"{source} cannot be read as a Janus config ({shown(error)}): fetch it again."
            ) from error
        check_limits(config, source)
        return config

    @classmethod
    def preset(cls, name: str) -> JanusConfig:
        """The config of a published model, such as 'Janus-Pro-7B'. Raises CheckpointError for any other name."""
        return cls.from_dict(published_config(name), source=name)


def published_config(name: str) -> dict[str, Any]:
    """The `config.json` of a published model in DeepSeek's layout, sizes left out where DeepSeek leaves them out.

    Raises CheckpointError for a name that is not in PUBLISHED.
    """
    for model in PUBLISHED:
        if model.name == name:
            return deepseek_config(
                image_size=384,
                vision_name="siglip_large_patch16_384",
                vq_name="VQ-16",
                vq={"image_token_size": 16384, "n_embed": 8},  # nosec B105 # a size
                language={**model.language, "max_position_embeddings": 16384, "vocab_size": 102400},
            )
    *names, last = sorted(model.name for model in PUBLISHED)
    raise CheckpointError(f"No published Janus is {name!r}: choose {', '.join(names)} or {last}.")


def deepseek_config(
    *,
    image_size: int,
    vision_name: str,
    vq_name: str,
    vq: dict[str, Any],
    language: dict[str, Any],
    vision: dict[str, Any] | None = None,
    head_width: int | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """A `config.json` in DeepSeek's layout.

    `vq` and `language` are the entries of their parts; `vision` lists SigLIP's sizes where `vision_name` is no preset.
    `head_width` is the image head's inner width, by default the transformer's. `dtype` is the weights' `torch_dtype`.
    """
    vision = vision or {}
    hidden = (LLAMA_DEFAULTS | language)["hidden_size"]
    stored = {"torch_dtype": dtype} if dtype else {}

    def part(name: str, model_type: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"cls": name, "model_type": model_type, "params": params}

    def projector(model_type: str, width: int) -> dict[str, Any]:
        params = {"depth": 2, "input_dim": width, "n_embed": hidden, "projector_type": "mlp_gelu"}
        return part("MlpProjector", model_type, params)

    return {
        "model_type": "multi_modality",
        "architectures": ["MultiModalityCausalLM"],
        **stored,
        "vision_config": part(
            "CLIPVisionTower",
            "vision",
            {"image_size": image_size, "model_name": vision_name, "select_feature": "same", "select_layer": -1}
            | vision,
        ),
        "aligner_config": projector("aligner", (SIGLIP_PRESETS.get(vision_name, {}) | vision)["width"]),
        "gen_vision_config": part(vq_name, "gen_vision", vq),
        "gen_aligner_config": projector("gen_aligner", vq["n_embed"]),
        "gen_head_config": part(
            "vision_head",
            "gen_head",
            {"image_token_embed": head_width or hidden, "image_token_size": vq["image_token_size"], "n_embed": hidden},
        ),
        "language_config": {"model_type": "llama", **language, **stored},
    }


_Part = TypeVar("_Part", VisionConfig, VQConfig, LlamaConfig)


def _whole(value: Any) -> int:
    """A count or size. int() would cut 2.5 to 2 and read text."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


_READERS = {"int": _whole, "float": _number, "tuple[int, ...]": lambda values: tuple(map(_whole, values))}


def _read(part: type[_Part], raw: Mapping[str, Any], **names: str) -> _Part:
    """A part's config from the entries of the same names; `names` gives the file's name where it differs."""
    return part(
        **{field.name: _READERS[str(field.type)](raw[names.get(field.name, field.name)]) for field in fields(part)}
    )


def _llama(raw: dict[str, Any]) -> LlamaConfig:
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}  # newer and older spelling of the same entry
    raw = LLAMA_DEFAULTS | {k: v for k, v in rope.items() if k == "rope_theta"} | raw
    if raw.get("num_key_value_heads", raw["num_attention_heads"]) != raw["num_attention_heads"]:
        raise ValueError("num_key_value_heads differs from num_attention_heads, which no Janus has")
    if rope.get("rope_type", "default") != "default" or "factor" in rope:
        raise ValueError("RoPE scaling is set, which no Janus has")
    return _read(LlamaConfig, raw)


def _other_model(raw: dict[str, Any]) -> str | None:
    """What a config is that looks like a Janus one: another model, or a Janus in a format that cannot be read."""
    if raw.get("model_type") == "multi_modality":
        if "vision_gen_enc_config" in raw:
            return "JanusFlow, which draws by another method"
        if not raw.keys() & {"gen_vision_config", "gen_aligner_config", "gen_head_config"}:
            return "DeepSeek-VL, which reads pictures and cannot draw any"
    settings = raw.get("quantization_config")
    if settings is not None:
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        return f"a model quantised by {shown(method or 'another library')}"
    return "a model converted for MLX" if "quantization" in raw else None


def _from_deepseek(raw: dict[str, Any]) -> JanusConfig:
    vision = raw["vision_config"]["params"]
    vq = raw["gen_vision_config"]["params"]
    for part in ("aligner_config", "gen_aligner_config"):
        projector = raw[part]["params"]["projector_type"]
        if projector != "mlp_gelu":
            raise ValueError(f"{part} names the projector {projector!r}, where every Janus has 'mlp_gelu'")
    return JanusConfig(
        vision=_read(VisionConfig, SIGLIP_PRESETS.get(vision.get("model_name"), {}) | vision),
        vq=_read(
            VQConfig,
            VQ_PRESETS.get(raw["gen_vision_config"].get("cls"), {}) | vq,
            codebook_size="image_token_size",
            codebook_dim="n_embed",
        ),
        llama=_llama(raw["language_config"]),
        aligner_depth=_whole(raw["aligner_config"]["params"]["depth"]),
        gen_aligner_depth=_whole(raw["gen_aligner_config"]["params"]["depth"]),
        gen_head_width=_whole(raw["gen_head_config"]["params"]["image_token_embed"]),
    )


def _from_transformers(raw: dict[str, Any]) -> JanusConfig:
    vision = TRANSFORMERS_VISION_DEFAULTS | raw["vision_config"]
    vq = TRANSFORMERS_VQ_DEFAULTS | raw["vq_config"]
    return JanusConfig(
        vision=_read(
            VisionConfig, vision, width="hidden_size", layers="num_hidden_layers", heads="num_attention_heads"
        ),
        vq=_read(
            VQConfig,
            vq,
            ch="base_channels",
            ch_mult="channel_multiplier",
            z_channels="latent_channels",
            codebook_size="num_embeddings",
            codebook_dim="embed_dim",
        ),
        llama=_llama(raw["text_config"]),
        aligner_depth=_whole(vision["depth"]),
        gen_aligner_depth=_whole(vq["num_hidden_layers"]),
        gen_head_width=_whole(vq["image_token_embed_dim"]),
    )
