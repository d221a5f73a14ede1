"""janus-mini: its config, the other files of its folder, and its first weights."""

import json
from pathlib import Path

import torch
from torch import nn

from ..config import JanusConfig, deepseek_config
from ..model.janus import JanusModel
from ..processing import BOS, EOS, IMAGE_TAG, PAD
from .vocabulary import ROLES, build_tokenizer
from .world import SIDE

WIDTH, LAYERS, HEADS, INNER = 192, 6, 6, 512
HEAD_WIDTH = 384
VISION = {"width": 128, "layers": 3, "heads": 4, "patch_size": 16, "mlp_ratio": 4}
VQ = {"ch": 32, "ch_mult": [1, 1, 2, 2, 4], "z_channels": 128, "num_res_blocks": 1}
CODES, CODE_WIDTH = 1024, 32
MIN_P = 0.02  # chosen on prompts that no score uses: 0.01, 0.02 and 0.05 all drew 480 of 480 pictures right


def mini_config(vocabulary: int) -> dict:
    """janus-mini's `config.json`; DeepSeek's layout has no names for its sizes, so they are listed."""
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
    """Write every file of a checkpoint but its weights: config, tokenizer, processor. Returns the config."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = mini_config(tokenizer.get_vocab_size())
    tokens = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    files = {
        "config.json": config,
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizerFast",
            **tokens,
            "model_max_length": 1024,
            "add_bos_token": True,  # nosec B105 # a switch
            "add_eos_token": False,  # nosec B105
        },
        "special_tokens_map.json": {"additional_special_tokens": [IMAGE_TAG, *ROLES]} | tokens,
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
            "add_special_token": False,  # nosec B105
            "ignore_id": -100,
            "image_tag": IMAGE_TAG,
            "mask_prompt": True,
            "num_image_tokens": (SIDE // VISION["patch_size"]) ** 2,
            "processor_class": "VLChatProcessor",
            "sft_format": "deepseek",
        },
        "generation_config.json": {"janus": {"min_p": MIN_P}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return JanusConfig.from_dict(config)


def new_model(config: JanusConfig, *, seed: int) -> JanusModel:
    """A model of random weights.

    They are small: with larger ones attention settles on few positions before it has learned which ones matter.
    """
    torch.manual_seed(seed)
    model = JanusModel(config)
    residual = (2 * config.llama.num_hidden_layers) ** -0.5  # GPT-2's factor for layers that add to the residual
    for name, module in model.language_model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02 * (residual if name.endswith(("o_proj", "down_proj")) else 1.0))
    for adaptor in (model.aligner, model.gen_aligner):  # so that their output is about as large as a word's embedding
        last = [layer for layer in adaptor.modules() if isinstance(layer, nn.Linear)][-1]
        nn.init.normal_(last.weight, std=0.1 * (3 * last.in_features) ** -0.5)
        nn.init.zeros_(last.bias)
    nn.init.normal_(model.vision_model.vision_tower.pos_embed, std=0.2)
    return model
