"""ComfyUI's entry point: registers the model folders and lists the nodes."""

from comfy_api.latest import ComfyExtension, io

from .nodes import replacements
from .nodes.caption import JanusCaptionFolder
from .nodes.chat import JanusChat
from .nodes.describe import JanusDescribeImage
from .nodes.edit import JanusEdit
from .nodes.generate import JanusTextToImage
from .nodes.host import canvas, folders
from .nodes.judging import JanusCheck, JanusDrawBest, JanusPickBest
from .nodes.load import JanusLoader
from .nodes.lora import JanusLoRA
from .nodes.prompt import JanusPrompt
from .nodes.repaint import JanusRepaint, JanusVariations
from .nodes.sampling import JanusSampling
from .nodes.save import JanusSave
from .nodes.seeds import add_seeds_to_metadata
from .nodes.text_model import JanusTextModel
from .nodes.token_files import JanusLoadTokens, JanusSaveTokens
from .nodes.tokens import JanusJoinTokens, JanusPickTokens, JanusVQDecode, JanusVQEncode

WEB_DIRECTORY = "web"


class JanusExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def on_load(self) -> None:
        await replacements.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            JanusLoader,
            JanusLoRA,
            JanusTextToImage,
            JanusPrompt,
            JanusSampling,
            JanusRepaint,
            JanusVariations,
            JanusEdit,
            JanusDescribeImage,
            JanusChat,
            JanusTextModel,
            JanusCaptionFolder,
            JanusCheck,
            JanusPickBest,
            JanusDrawBest,
            JanusVQDecode,
            JanusVQEncode,
            JanusPickTokens,
            JanusJoinTokens,
            JanusSaveTokens,
            JanusLoadTokens,
            JanusSave,
        ]


async def comfy_entrypoint() -> JanusExtension:
    folders.register_folders()
    canvas.add_prompt_handler(replacements.complete)
    canvas.add_prompt_handler(add_seeds_to_metadata)
    return JanusExtension()
