"""VQ Decode: picture tokens to pictures."""

from comfy_api.latest import io

from ..janus_core import ImageTokens
from . import inputs
from .host.weights import HostedJanus
from .types import JanusType, TokensType


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
                JanusType.Input("janus", tooltip="The model that drew the tokens, from Load Janus."),
                TokensType.Input("tokens", tooltip="The tokens of one or more pictures, from Janus Text-to-Image."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="One picture for each set of tokens.")],
        )

    @classmethod
    @inputs.checked
    def execute(cls, janus: HostedJanus, tokens: ImageTokens) -> io.NodeOutput:
        return io.NodeOutput(janus.decode(tokens))
