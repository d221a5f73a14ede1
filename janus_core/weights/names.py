"""Weights that files hold apart and the model as one, for a decode step to read in one product: q, k, v and gate, up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The model's layer -> the layers it is in DeepSeek's files, stacked along dim 0 in equal parts.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_LAYER = re.compile(rf"(?<=\.)({'|'.join(FUSED)})(?=\.)")


class TensorSlice(NamedTuple):
    """Where a file's tensor lies in the model: under `key`, whole, or only `rows` (start, length) of it."""

    key: str
    rows: tuple[int, int] | None

    def of(self, tensor: Tensor) -> Tensor:
        """The file's part, a view, of the model's `tensor`."""
        return tensor if self.rows is None else tensor.narrow(0, *self.rows)


def tensor_slices(state: Mapping[str, Tensor]) -> dict[str, TensorSlice]:
    """DeepSeek's name of every tensor, in order -> its place among the model's tensors `state`."""
    found = {}
    for key, tensor in state.items():
        layer = _LAYER.search(key)
        if layer is None:
            found[key] = TensorSlice(key, None)
            continue
        parts = FUSED[layer[0]]
        size = len(tensor) // len(parts)
        for i, part in enumerate(parts):
            found[f"{key[: layer.start()]}{part}{key[layer.end() :]}"] = TensorSlice(key, (i * size, size))
    return found


def join_slices(parts: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Equal parts stacked along dim 0, on the device: where they lie end to end in one mapped file, the file itself."""
    first, size = parts[0], parts[0].numel()
    if len(parts) == 1:
        return first.to(device)
    shape = (len(parts) * len(first), *first.shape[1:])
    storage = first.untyped_storage().data_ptr()
    starts = [part.storage_offset() for part in parts if part.untyped_storage().data_ptr() == storage]
    if first.is_contiguous() and starts == [first.storage_offset() + i * size for i in range(len(parts))]:
        return first.as_strided(shape, first.stride()).to(device)
    whole = torch.empty(shape, dtype=first.dtype, device=device)
    for part, piece in zip(parts, whole.chunk(len(parts)), strict=True):
        piece.copy_(part)
    return whole


def split_fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors under DeepSeek's names; those of packed layers are views of their rows."""
    return {name: place.of(state[place.key]) for name, place in tensor_slices(state).items()}


# Our (DeepSeek's) spelling -> transformers' spelling, applied in order.
VIT = "model.vision_model.encoder.layers"
TO_TRANSFORMERS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^vision_model\.vision_tower\.", "model.vision_model."),
        (r"^model\.vision_model\.pos_embed$", "model.vision_model.embeddings.position_embedding.weight"),
        (r"^model\.vision_model\.patch_embed\.proj\.", "model.vision_model.embeddings.patch_embedding."),
        (r"^model\.vision_model\.norm\.", "model.vision_model.post_layernorm."),
        (r"^model\.vision_model\.blocks\.(\d+)\.norm(\d)\.", rf"{VIT}.\1.layer_norm\2."),
        (r"^model\.vision_model\.blocks\.(\d+)\.attn\.proj\.", rf"{VIT}.\1.self_attn.projection_layer."),
        (r"^model\.vision_model\.blocks\.(\d+)\.attn\.", rf"{VIT}.\1.self_attn."),
        (r"^model\.vision_model\.blocks\.", f"{VIT}."),
        (r"^gen_head\.output_mlp_projector\.", "model.generation_head.proj_out."),
        (r"^gen_head\.", "model.generation_head."),
        (r"^gen_embed\.", "model.generation_embeddings."),
        (r"^gen_aligner\.", "model.generation_aligner."),
        (r"^aligner\.", "model.aligner."),
        (r"^(model\.(?:generation_)?aligner)\.layers\.0\.", r"\1.fc1."),
        (r"^gen_vision_model\.", "model.vqmodel."),
        (r"^model\.vqmodel\.encoder\.conv_blocks\.", "model.vqmodel.encoder.down."),
        (r"^model\.vqmodel\.decoder\.conv_blocks\.", "model.vqmodel.decoder.up."),
        (r"^(model\.vqmodel\.\w+\.(?:down|up)\.\d+)\.res\.", r"\1.block."),
        (r"\.mid\.0\.", ".mid.block_1."),
        (r"\.mid\.1\.", ".mid.attn_1."),
        (r"\.mid\.2\.", ".mid.block_2."),
    )
]
ALIGNER_LAYER = re.compile(r"^(model\.(?:generation_)?aligner)\.layers\.(\d+)\.")


def transformers_keys(key: str) -> list[str]:
    """The transformers spelling of one of our keys: one key, or three to be stacked along dim 0 (SigLIP's q, k, v)."""
    for pattern, replacement in TO_TRANSFORMERS:
        key = pattern.sub(replacement, key)
    key = ALIGNER_LAYER.sub(lambda m: f"{m[1]}.hidden_layers.{int(m[2]) // 2 - 1}.", key)
    if ".self_attn.qkv." in key:
        return [key.replace(".qkv.", f".{part}_proj.") for part in "qkv"]
    return [key]
