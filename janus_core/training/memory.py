"""What `train lora` needs: bytes of weights, adapters and work."""

import torch

from ..config import JanusConfig
from ..memory import MARGIN, weight_bytes
from ..precision import Precision

ADAM = 3 * 4  # bytes a trained number: itself and AdamW's two moments, in float32
LOSS = 3 * 4  # bytes a logit: itself, its log-softmax, and the gradient, in float32


def lora_bytes(
    config: JanusConfig, dtype: torch.dtype | str | Precision, *, rank: int, samples: int = 1, prompt: int = 64
) -> int:
    """Peak bytes of a LoRA of the transformer's layers, with `samples` pictures to draw at once from prompts of that length.

    `dtype` is that of the frozen weights. The VQ tokenizer is in float32.
    """
    precision, llama = Precision.of(dtype), config.llama
    size, hidden, inner, layers = (
        precision.compute.itemsize,
        llama.hidden_size,
        llama.intermediate_size,
        llama.num_hidden_layers,
    )
    vq = ["gen_vision_model"]
    weights = weight_bytes(config, precision) - weight_bytes(config, precision, vq) + weight_bytes(config, "fp32", vq)
    # Of q, k, v and o; gate and up; down.
    trained = layers * rank * (4 * 2 * hidden + 2 * (hidden + inner) + (inner + hidden))
    codes = config.grid[0] * config.grid[1]
    tokens = samples * (prompt + codes - 1)
    inputs = layers * tokens * hidden * size
    # One layer, computed again and then differentiated: its input, two norms, q, k, v, their rotations and what attention
    # gives; gate and up, silu of gate, the product, and the gradients of these but one. 8-bit weights are cast once.
    layer = tokens * (10 * hidden + 7 * inner) * size
    if precision.eight_bit is not None:
        layer += (4 * hidden**2 + 3 * hidden * inner) * size
    loss = samples * codes * config.vq.codebook_size * LOSS
    return int(weights + ADAM * trained + MARGIN * (4 * trained + inputs + max(layer, loss)))
