"""Janus Text-to-Image: pictures, and their tokens, from a description."""

import dataclasses

from comfy_api.latest import io

from ..janus_core.pipeline import SAMPLERS
from . import inputs
from .host import canvas
from .host.weights import HostedJanus
from .preview import preview_of
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
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
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
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures."),
                TokensType.Output(display_name="tokens", tooltip="The same pictures as tokens, for VQ Decode."),
            ],
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
    ) -> io.NodeOutput:
        settings = sampling or SamplingSettings(top_k=top_k, top_p=top_p, sampler=sampler, window=window)
        preview = preview_of(janus)
        need = janus.core.drawing_need(
            prompt,
            batch_size,
            cfg_weight=cfg,
            cfg_end=settings.cfg_end,
            sampler=settings.sampler,
            window=settings.window,
        )
        if preview and preview.decodes:
            need += janus.core.decoding_need()
        tokens = janus.ready(need).generate(
            prompt,
            batch_size,
            seed=seed,
            cfg_weight=cfg,
            temperature=temperature,
            progress=canvas.progress(preview=preview),
            **dataclasses.asdict(settings),
        )
        pictures = janus.decode(tokens)
        if preview:
            canvas.show_frame(preview.sheet(pictures))
        return io.NodeOutput(pictures, tokens, ui={"janus_pictures": thumbnails(pictures, seed)})
