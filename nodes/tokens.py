"""VQ Decode and VQ Encode: picture tokens to pictures, and back."""

import torch
from comfy_api.latest import io

from ..janus_core import ImageTokens
from ..janus_core.pictures import FITS, check_images, fitted, over_white
from . import inputs
from .host.weights import HostedJanus
from .types import JanusType, TokensType

KEEP = "keep"  # a VQ Encode's way to fit pictures: not at all


class JanusVQDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusVQDecode",
            display_name="VQ Decode",
            category="Janus",
            description="Turns picture tokens into pictures.",
            **inputs.search_aliases("autoregressive", "tokens to image", "codebook"),
            inputs=[
                JanusType.Input("janus", tooltip="The model that drew or encoded the tokens, from Load Janus."),
                TokensType.Input(
                    "tokens", tooltip="The tokens of one or more pictures, from Janus Text-to-Image or VQ Encode."
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="One picture for each set of tokens.")],
        )

    @classmethod
    @inputs.checked
    def execute(cls, janus: HostedJanus, tokens: ImageTokens) -> io.NodeOutput:
        return io.NodeOutput(janus.decode(tokens))


class JanusVQEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusVQEncode",
            display_name="VQ Encode",
            category="Janus",
            description="Turns pictures from anywhere into picture tokens. VQ Decode then shows what the tokens keep of them.",
            **inputs.search_aliases("autoregressive", "image to tokens", "codebook", "vae encode"),
            inputs=[
                inputs.MODEL,
                io.Image.Input(
                    "image",
                    tooltip="One or more pictures: photographs, or what another model drew. See-through parts become white.",
                ),
                io.Combo.Input(
                    "fit",
                    options=[*FITS, KEEP],
                    default=FITS[0],
                    tooltip="How a picture gets the model's own size. Crop cuts off what is too long, pad adds white bars, "
                    "stretch changes the proportions. Keep takes a picture as it is, with sides that are multiples of 16; "
                    "its tokens are for VQ Decode only.",
                ),
            ],
            outputs=[
                TokensType.Output(
                    display_name="tokens", tooltip="The tokens of the pictures, for the model's own VQ Decode."
                ),
                # Not "image": an output may not have the id of an input.
                io.Image.Output(
                    "fitted", display_name="image", tooltip="The pictures as the model saw them, at their new size."
                ),
            ],
        )

    @classmethod
    @inputs.checked
    def execute(cls, janus: HostedJanus, image: torch.Tensor, fit: str) -> io.NodeOutput:
        pictures = check_images(over_white(image))
        pictures = pictures.float().clamp(0, 1) if fit == KEEP else fitted(pictures, janus.core.size, fit)
        return io.NodeOutput(janus.encode(pictures), pictures)
