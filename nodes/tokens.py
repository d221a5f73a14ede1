"""VQ Decode and VQ Encode: picture tokens to pictures, and back. Pick Tokens and Join Tokens: some of a batch, and two."""

import torch
from comfy_api.latest import io

from ..janus_core import ImageTokens
from ..janus_core.pictures import FITS, check_images, fitted, over_white
from ..janus_core.tokens import joined, picked
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


class JanusPickTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusPickTokens",
            display_name="Pick Tokens",
            category="Janus",
            description="Takes the tokens of one picture, or of several in a row, out of a batch.",
            **inputs.search_aliases("tokens from batch", "select", "index"),
            inputs=[
                TokensType.Input("tokens", tooltip="The tokens of several pictures."),
                io.Int.Input(
                    "index", default=0, min=0, max=4095, tooltip="Which picture to begin with; the first one is 0."
                ),
                io.Int.Input(
                    "length",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="How many pictures to take. If fewer are left, all of them are taken.",
                ),
            ],
            # Not "tokens": an output may not have the id of an input.
            outputs=[
                TokensType.Output("picked", display_name="tokens", tooltip="The tokens of the pictures you picked.")
            ],
        )

    @classmethod
    @inputs.checked
    def execute(cls, tokens: ImageTokens, index: int, length: int) -> io.NodeOutput:
        return io.NodeOutput(picked(tokens, index, length))


class JanusJoinTokens(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusJoinTokens",
            display_name="Join Tokens",
            category="Janus",
            description="Puts the tokens of two batches of pictures into one. Both must be of one model and one size.",
            **inputs.search_aliases("batch tokens", "combine", "concatenate"),
            inputs=[
                TokensType.Input("tokens_1", tooltip="The tokens that come first, of one or more pictures."),
                TokensType.Input("tokens_2", tooltip="The tokens that follow them."),
            ],
            outputs=[
                TokensType.Output(display_name="tokens", tooltip="The tokens of all these pictures, as one batch.")
            ],
        )

    @classmethod
    @inputs.checked
    def execute(cls, tokens_1: ImageTokens, tokens_2: ImageTokens) -> io.NodeOutput:
        return io.NodeOutput(joined(tokens_1, tokens_2))
