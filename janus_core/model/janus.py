"""The whole network. Attributes are spelled as DeepSeek's checkpoints spell their keys."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import JanusConfig
from .llama import LanguageModel
from .siglip import VisionModel
from .vq import VQModel

# Modules that are loaded together. The text embedding table is in none: only a few of its rows are read per task, so a
# host may leave it in system memory.
PARTS = {
    "Understanding": ("vision_model", "aligner"),
    "Language": ("language_model.model.layers", "language_model.model.norm"),
    "TextHead": ("language_model.lm_head",),
    "PictureHead": ("gen_embed", "gen_aligner", "gen_head"),
    "VQ": ("gen_vision_model",),
}
# The parts that each task needs.
DRAWING = ("Language", "PictureHead")
ANSWERING = ("Understanding", "Language", "TextHead")
DECODING = ("VQ",)


class Projector(nn.Module):
    """[..., width_in] -> [..., width_out]: `depth` linear layers with exact GELU between them.

    They are `layers.0`, `layers.2`, ...
    """

    def __init__(self, width_in: int, width_out: int, depth: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        layers: list[nn.Module] = [ops.Linear(width_in, width_out, **factory)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), ops.Linear(width_out, width_out, **factory)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GenHead(nn.Module):
    """Hidden states [..., D] -> logits over the codebook [..., codebook_size]."""

    def __init__(self, config: JanusConfig, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.output_mlp_projector = ops.Linear(config.llama.hidden_size, config.gen_head_width, **factory)
        self.vision_head = ops.Linear(config.gen_head_width, config.vq.codebook_size, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.vision_head(F.gelu(self.output_mlp_projector(x)))


class JanusModel(nn.Module):
    """SigLIP, the VQ tokenizer, and the transformer that reads the one and predicts the codes of the other.

    `operations` is the namespace of every layer with weights, see `Layers`; torch.nn draws random initial weights.
    `vq_dtype` defaults to `dtype`.
    """

    def __init__(
        self,
        config: JanusConfig,
        operations: Any = nn,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        vq_dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        factory = {"device": device, "dtype": dtype}
        hidden = config.llama.hidden_size
        self.vision_model = VisionModel(config.vision, operations, factory)
        self.aligner = Projector(config.vision.width, hidden, config.aligner_depth, operations, factory)
        self.gen_vision_model = VQModel(config.vq, operations, {"device": device, "dtype": vq_dtype or dtype})
        self.gen_embed = operations.Embedding(config.vq.codebook_size, config.vq.codebook_dim, **factory)
        self.gen_aligner = Projector(config.vq.codebook_dim, hidden, config.gen_aligner_depth, operations, factory)
        self.gen_head = GenHead(config, operations, factory)
        self.language_model = LanguageModel(config.llama, operations, factory)

    def modules_of(self, *parts: str) -> list[nn.Module]:
        """The modules of some of PARTS."""
        return [self.get_submodule(name) for part in parts for name in PARTS[part]]

    @property
    def drawing_parts(self) -> list[nn.Module]:
        """What a decode step of drawing computes with."""
        return self.modules_of(*DRAWING)

    @property
    def answering_parts(self) -> list[nn.Module]:
        """What a decode step of answering computes with: pictures are read before."""
        return self.modules_of("Language", "TextHead")

    def embed_text(self, ids: Tensor) -> Tensor:
        """Text ids [B, T] -> embeddings [B, T, D] on the ids' device; the table may be on another one."""
        table = self.language_model.model.embed_tokens
        return table(ids.to(table.weight.device)).to(ids.device)

    def embed_codes(self, ids: Tensor) -> Tensor:
        """Picture codes [B, T] -> embeddings [B, T, D] for the transformer."""
        return self.gen_aligner(self.gen_embed(ids))

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Preprocessed pixels [B, 3, S, S] in -1..1 -> picture embeddings [B, n, D]."""
        return self.aligner(self.vision_model(pixels))
