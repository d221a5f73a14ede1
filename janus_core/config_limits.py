"""How large each number of a config may be, checked before anything is built from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import CheckpointError, shown

if TYPE_CHECKING:
    from .config import JanusConfig

# The most that is taken of what a config counts and measures: 8 times and more of any published Janus. With more, building
# even an empty model would take hours, fill the memory, or overflow the 64 bits of a tensor's size.
LIMITS = {
    # Layers: an empty model of 256 is built in a second.
    "layers": 256,
    "num_hidden_layers": 256,
    "num_res_blocks": 64,
    "aligner_depth": 64,
    "gen_aligner_depth": 64,
    # Widths: two of them make a matrix of at most 2**34 weights.
    "width": 2**17,
    "hidden_size": 2**17,
    "intermediate_size": 2**17,
    "gen_head_width": 2**17,
    "heads": 1024,
    "num_attention_heads": 1024,
    "ch": 4096,
    "z_channels": 4096,
    "codebook_dim": 4096,
    # Tables: one row for each token, code and position.
    "vocab_size": 2**20,
    "codebook_size": 2**20,
    "max_position_embeddings": 2**20,
    # Pixels: SigLIP's attention grows with the fourth power of the side.
    "image_size": 4096,
    "patch_size": 4096,
    # Factors.
    "mlp_ratio": 64,
    "rms_norm_eps": 1,
    "rope_theta": 1e12,
}
MAX_RESOLUTIONS = 8  # entries of ch_mult; each more halves the picture's side
MAX_CH_MULT = 64  # each of them
MAX_IMAGE_TOKENS = 2**16  # of one picture in a prompt; Janus-Pro's takes 576


def check_limits(config: JanusConfig, source: str) -> None:
    """Raise CheckpointError for a size out of range, or sizes that do not fit each other. `source` names the file."""
    vision, vq, llama = config.vision, config.vq, config.llama
    found = vars(vision) | vars(vq) | vars(llama) | vars(config)
    for name, limit in LIMITS.items():
        if not 0 < found[name] <= limit:  # nor NaN
            raise CheckpointError(
                f"{source} is not a Janus config: {name} is {shown(found[name])}, where more than 0 and at most {limit:g} "
                "is possible."
            )
    if not 1 <= len(vq.ch_mult) <= MAX_RESOLUTIONS or not all(1 <= factor <= MAX_CH_MULT for factor in vq.ch_mult):
        raise CheckpointError(
            f"{source} is not a Janus config: ch_mult is {shown(vq.ch_mult)}, where up to {MAX_RESOLUTIONS} numbers from 1 "
            f"to {MAX_CH_MULT} are possible."
        )
    for what, whole, part in (
        ("hidden_size / num_attention_heads", llama.hidden_size, llama.num_attention_heads),
        ("head size / 2", llama.head_dim, 2),  # RoPE rotates pairs
        ("vision width / heads", vision.width, vision.heads),
        ("image_size / patch_size", vision.image_size, vision.patch_size),
        ("image_size / the VQ's downsampling", vision.image_size, vq.downsampling),
        ("ch / GroupNorm's groups", vq.ch, 32),
    ):
        if whole % part:
            raise CheckpointError(
                f"{source} is not a Janus config: {what} must be a whole number, but is {whole} / {part}."
            )
    if vision.tokens > MAX_IMAGE_TOKENS:
        raise CheckpointError(
            f"{source} is not a Janus config: a picture of {vision.image_size} pixels in patches of {vision.patch_size} is "
            f"{vision.tokens} tokens, more than {MAX_IMAGE_TOKENS}."
        )
