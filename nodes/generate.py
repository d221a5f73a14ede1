"""Janus Text-to-Image: pictures, their tokens, and what the model thought, from a description."""

import dataclasses

from comfy_api.latest import io

from ..janus_core import InputError
from ..janus_core.errors import shown
from ..janus_core.pipeline import SAMPLERS
from ..janus_core.thinking import Thought, drawing_from, think, thinking_need
from . import inputs
from .host import canvas
from .host.weights import HostedJanus
from .preview import ready_to_draw
from .seeds import MAX_BATCH, thumbnails
from .types import SamplingSettings, SamplingType, TokensType


class JanusTextToImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusTextToImage",
            display_name="Janus Text-to-Image",
            category="Janus",
            description="Draws pictures from a description. Their size is the model's own: 384 x 384 for Janus-Pro. Connect "
            "Janus Sampling for finer settings: it overrules the top_k, top_p, sampler and window on this node.",
            **inputs.search_aliases("text to image", "txt2img", "t2i", "draw", "autoregressive", "janus pro"),
            **inputs.shown_from_cache(),
            inputs=[
                inputs.MODEL,
                inputs.text_box(
                    "prompt",
                    default="a red circle at the center on a white background",
                    placeholder="What to draw",
                    tooltip="What to draw, in plain sentences. Objects, colours, places and style all help.",
                ),
                inputs.seed(
                    control_after_generate=True,
                    tooltip="The same seed and settings give the same picture. In a batch the second picture has "
                    "seed + 1, the third seed + 2, so any of them can be drawn again alone.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=MAX_BATCH,
                    tooltip="How many pictures to draw at once, each different.",
                ),
                inputs.CFG,
                inputs.DRAWING_TEMPERATURE,
                *inputs.choosing_tokens(overruled=True),
                SamplingType.Input(
                    "sampling",
                    optional=True,
                    tooltip="From Janus Sampling: finer settings. Its top_k, top_p, sampler and window count instead of those "
                    "on this node.",
                ),
                io.Combo.Input(
                    "thinking",
                    options=["off", "on"],
                    default="off",
                    optional=True,
                    tooltip="On lets the model say in words what it will draw, and draw from that: each picture of a batch "
                    "from a thought of its own. Models that were trained to think do it in their own way, others rewrite the "
                    "prompt. It takes as long as an answer more.",
                    **inputs.ADVANCED,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures."),
                TokensType.Output(display_name="tokens", tooltip="The same pictures as tokens, for VQ Decode."),
                io.String.Output(
                    "thoughts",
                    display_name="thought",
                    is_output_list=True,
                    tooltip="What the model thought before it drew, one text for each picture. With thinking off, the prompt.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @inputs.checked
    def execute(
        cls,
        janus: HostedJanus,
        prompt: str,
        *,
        seed: int,
        batch_size: int,
        cfg: float,
        temperature: float,
        top_k: int,
        top_p: float,
        sampler: str = SAMPLERS[0],
        window: int = 8,
        sampling: SamplingSettings | None = None,
        thinking: str = "off",
    ) -> io.NodeOutput:
        settings = sampling or SamplingSettings(top_k=top_k, top_p=top_p, sampler=sampler, window=window)
        if thinking not in ("off", "on"):
            raise InputError(f"The input thinking is {shown(repr(thinking))} and must be off or on: choose one.")
        given = {"seed": seed, "cfg_weight": cfg, "temperature": temperature, **dataclasses.asdict(settings)}
        drawing = janus.core.drawing_of(prompt, batch_size, **given)  # bad settings are refused before a thought
        thoughts: list[Thought] = []
        if thinking == "on":
            core = janus.ready(thinking_need(janus.core, prompt, batch_size))
            show = lambda texts: canvas.show_output(cls.hidden.unique_id, {"janus_thoughts": texts})
            thoughts = think(core, prompt, batch_size, seed=seed, progress=canvas.answers_progress(core, show))
            drawing = drawing_from(core, prompt, thoughts, **given)
        preview = ready_to_draw(janus, janus.core.need_of(drawing))
        tokens = janus.core.draw(drawing, canvas.progress(preview=preview))
        pictures = janus.decode(tokens)
        if preview:
            canvas.show_frame(preview.sheet(pictures))
        said = [thought.text for thought in thoughts]
        ui = {"janus_pictures": thumbnails(pictures, seed)} | ({"janus_thoughts": said} if said else {})
        return io.NodeOutput(pictures, tokens, said or [prompt] * batch_size, ui=ui)
