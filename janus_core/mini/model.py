"""janus-mini: its shape, its first weights, and its folder in DeepSeek's layout."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import JanusConfig, deepseek_config
from ..model.janus import JanusModel
from ..processing import BOS, EOS, IMAGE_TAG, PAD
from ..training.vq import UNUSED
from .vocabulary import ROLES, build_tokenizer
from .world import SIDE

WIDTH, LAYERS, HEADS, INNER = 192, 6, 6, 512
HEAD_WIDTH = 384
VISION = {"width": 128, "layers": 3, "heads": 4, "patch_size": 16, "mlp_ratio": 4}
VQ = {"ch": 32, "ch_mult": [1, 1, 2, 2, 4], "z_channels": 128, "num_res_blocks": 1}
CODES, CODE_WIDTH = 1024, 32


def mini_config(vocabulary: int) -> dict:
    """janus-mini's `config.json`; DeepSeek's dialect has no names for its sizes, so they are listed."""
    return deepseek_config(
        image_size=SIDE,
        vision_name="siglip_mini_patch16_96",
        vision=VISION,
        vq_name="VQ-mini",
        vq={"image_token_size": CODES, "n_embed": CODE_WIDTH} | VQ,
        language={
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 1024,
            "vocab_size": vocabulary,
        },
        head_width=HEAD_WIDTH,
        dtype="bfloat16",
    )


def write_layout(folder: Path) -> JanusConfig:
    """Write config, tokenizer and processor files, all of a checkpoint but its weights; return the model's shape."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = mini_config(tokenizer.get_vocab_size())
    files = {
        "config.json": config,
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "model_max_length": 1024,
            "add_bos_token": True,
            "add_eos_token": False,
        },
        "special_tokens_map.json": {
            "additional_special_tokens": [IMAGE_TAG, *ROLES],
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
        },
        "preprocessor_config.json": {
            "background_color": [127, 127, 127],
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "VLMImageProcessor",
            "image_size": SIDE,
            "image_std": [0.5, 0.5, 0.5],
            "min_size": 14,
            "processor_class": "VLChatProcessor",
            "rescale_factor": 1 / 255,
        },
        "processor_config.json": {
            "add_special_token": False,
            "ignore_id": -100,
            "image_tag": IMAGE_TAG,
            "mask_prompt": True,
            "num_image_tokens": (SIDE // VISION["patch_size"]) ** 2,
            "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return JanusConfig.from_dict(config)


def new_model(config: JanusConfig, seed: int) -> JanusModel:
    """A model of random weights, all small: larger ones let attention harden before it has learned where to look."""
    torch.manual_seed(seed)
    model = JanusModel(config)
    branches = (2 * config.llama.num_hidden_layers) ** -0.5
    for name, module in model.language_model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02 * (branches if name.endswith(("o_proj", "down_proj")) else 1.0))
    for adaptor in (model.aligner, model.gen_aligner):  # what they hand over is of the size of a word's embedding
        last = [layer for layer in adaptor.modules() if isinstance(layer, nn.Linear)][-1]
        nn.init.normal_(last.weight, std=0.1 * (3 * last.in_features) ** -0.5)
        nn.init.zeros_(last.bias)
    nn.init.normal_(model.vision_model.vision_tower.pos_embed, std=0.2)
    return model


def principal_axes(features: Tensor, count: int) -> Tensor:
    """Unit vectors [n, count] along the principal axes of features [n, f], the strong axes toned down."""
    features = features - features.mean(0)
    _, strengths, axes = torch.linalg.svd(features, full_matrices=False)
    return F.normalize(features @ axes[:count].T / strengths[:count] ** 0.5, dim=-1)


def looks_of_patches(patches: Tensor, width: int) -> Tensor:
    """How picture patches [n, 3 * side * side] look, as vectors [n, width]: half colours, half outlines.

    The outline is the patch's saturation as a share of its strongest: the same for a shape in every colour.
    """
    pixels = patches.unflatten(1, (3, -1))
    saturation = pixels.amax(1) - pixels.amin(1)
    outline = saturation / saturation.amax(1, keepdim=True).clamp(min=0.1)
    return torch.cat([principal_axes(patches, width // 2), principal_axes(outline, width // 2)], dim=1)


def pairs_of_looks(patches: Tensor, width: int) -> Tensor:
    """Unit vectors [n, width] alike only where colours *and* outline are: random mixes of their products.

    Sums of the two alone cannot say "a red circle or a blue square" without also saying "a blue circle".
    """
    colours, outlines = looks_of_patches(patches, 32).chunk(2, dim=1)
    products = (colours[:, :, None] * outlines[:, None, :]).flatten(1)
    mix = torch.randn(products.shape[1], width, generator=torch.Generator().manual_seed(0)) * width**-0.5
    return F.normalize(products @ mix, dim=1)


def start_from_looks(model: JanusModel, centres: Tensor) -> None:
    """Let codes that look alike start alike, in what the transformer is shown of them and in how it says them.

    `centres` are the patches [codes, 3 * side * side] that the VQ tokenizer's codes started from. Without this the
    image head has to find out, code by code, that the codes of all red circles have something in common.
    """
    used = centres[:, 0] < UNUSED
    with torch.no_grad():
        shown, said = model.gen_embed.weight.zero_(), model.gen_head.vision_head.weight.zero_()
        shown[used] = shown.shape[1] ** 0.5 * looks_of_patches(centres[used], shown.shape[1])
        half = said.shape[1] // 2
        said[used, :half] = 0.7 * looks_of_patches(centres[used], half)
        said[used, half:] = pairs_of_looks(centres[used], said.shape[1] - half)
        model.gen_head.vision_head.bias.zero_()
