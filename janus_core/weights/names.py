"""Tensor names: layers that checkpoints store apart and the model fuses, and transformers' spelling of every name.

q, k, v are one layer of the model, and gate, up another: a decode step then reads each group in one product.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# A fused layer of the model -> the layers that DeepSeek's files store, stacked along dim 0 in equal parts.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_LAYER = re.compile(rf"(?<=\.)({'|'.join(FUSED)})(?=\.)")


class TensorSlice(NamedTuple):
    """The part of the model's tensor `key` that one tensor of a file fills: all of it, or `rows` (start, length)."""

    key: str
    rows: tuple[int, int] | None

    def of(self, tensor: Tensor) -> Tensor:
        """That part of the model's `tensor`, as a view."""
        return tensor if self.rows is None else tensor.narrow(0, *self.rows)


def tensor_slices(state: Mapping[str, Tensor]) -> dict[str, TensorSlice]:
    """DeepSeek's name of every tensor -> the slice of the model's `state` that it fills, in the order of `state`."""
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


def split_fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors under DeepSeek's names; those of fused layers are views of their rows."""
    return {name: part.of(state[part.key]) for name, part in tensor_slices(state).items()}


def fuse(parts: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Equal parts stacked along dim 0, on the device.

    On the CPU the result is a view of the mapped file where the parts follow one another in it.
    """
    first, size = parts[0], parts[0].numel()
    if len(parts) == 1:
        return first.to(device)
    shape = (len(parts) * len(first), *first.shape[1:])
    # 1. All tensors of a safetensors file share one storage, the mapping of the file, so offsets can be compared.
    storage = first.untyped_storage().data_ptr()
    starts = [part.storage_offset() for part in parts if part.untyped_storage().data_ptr() == storage]
    # 2. Parts that follow one another without a gap are one larger tensor already: nothing is copied on the CPU.
    if first.is_contiguous() and starts == [first.storage_offset() + i * size for i in range(len(parts))]:
        return first.as_strided(shape, first.stride()).to(device)
    # 3. Others are copied into their rows one by one, which needs no memory beside the result.
    fused = torch.empty(shape, dtype=first.dtype, device=device)
    for part, rows in zip(parts, fused.chunk(len(parts)), strict=True):
        rows.copy_(part)
    return fused


# DeepSeek's spelling -> transformers', applied in order.
_VIT = "model.vision_model.encoder.layers"
_TO_TRANSFORMERS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^vision_model\.vision_tower\.", "model.vision_model."),
        (r"^model\.vision_model\.pos_embed$", "model.vision_model.embeddings.position_embedding.weight"),
        (r"^model\.vision_model\.patch_embed\.proj\.", "model.vision_model.embeddings.patch_embedding."),
        (r"^model\.vision_model\.norm\.", "model.vision_model.post_layernorm."),
        (r"^model\.vision_model\.blocks\.(\d+)\.norm(\d)\.", rf"{_VIT}.\1.layer_norm\2."),
        (r"^model\.vision_model\.blocks\.(\d+)\.attn\.proj\.", rf"{_VIT}.\1.self_attn.projection_layer."),
        (r"^model\.vision_model\.blocks\.(\d+)\.attn\.", rf"{_VIT}.\1.self_attn."),
        (r"^model\.vision_model\.blocks\.", f"{_VIT}."),
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
_ALIGNER_LAYER = re.compile(r"^(model\.(?:generation_)?aligner)\.layers\.(\d+)\.")


def transformers_keys(key: str) -> list[str]:
    """Transformers' spelling of one of DeepSeek's names: one name, or three to be stacked along dim 0 (SigLIP's q, k, v)."""
    for pattern, replacement in _TO_TRANSFORMERS:
        key = pattern.sub(replacement, key)
    key = _ALIGNER_LAYER.sub(lambda m: f"{m[1]}.hidden_layers.{int(m[2]) // 2 - 1}.", key)
    if ".self_attn.qkv." in key:
        return [key.replace(".qkv.", f".{part}_proj.") for part in "qkv"]
    return [key]
