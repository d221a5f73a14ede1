"""Writes the smallest Stable Diffusion 1.5 that ComfyUI takes: `python small_diffusion.py FILE`, in ComfyUI's folder.

One level of a random U-Net and a random TAESD. The text encoder, whose size ComfyUI fixes, is zero.
"""

import sys

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.sd1_clip import SDClipModel
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

torch.manual_seed(0)
unet = UNetModel(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=320,  # with a context of 768, what ComfyUI knows Stable Diffusion 1.5 by
    context_dim=768,
    num_res_blocks=[1],
    channel_mult=[1],
    num_heads=8,
    use_spatial_transformer=True,
    transformer_depth=[1],
    transformer_depth_output=[0, 0],
    transformer_depth_middle=-2,  # no middle
    operations=comfy.ops.manual_cast,
)
weights = {
    f"{prefix}.{key}": torch.randn_like(value) / value[0].numel() ** 0.5 if value.ndim > 1 else torch.ones_like(value)
    for prefix, module in (("model.diffusion_model", unet), ("first_stage_model", TAESD()))
    for key, value in module.state_dict().items()
}
text = SDClipModel(dtype=torch.float16).state_dict()
weights |= {f"cond_stage_model.{key}": torch.zeros_like(value) for key, value in text.items()}
save_file({key: value.half().contiguous() for key, value in weights.items()}, sys.argv[1])
