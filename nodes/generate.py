"""Janus Text-to-Image: pictures, and their tokens, from a description."""

from comfy_api.latest import io

from ..janus_core.pipeline import SAMPLERS
from . import inputs
from .host import canvas
from .host.weights import HostedJanus
from .preview import preview_of
from .seeds import MAX_BATCH, thumbnails
from .types import TokensType


class JanusTextToImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusTextToImage",
            display_name="Janus Text-to-Image",
            category="Janus",
            description="Draws pictures from a description. Their size is the model's own: 384 x 384 for Janus-Pro.",
            **inputs.search_aliases("text to image", "txt2img", "t2i", "draw", "autoregressive", "janus pro"),
            **inputs.shown_from_cache(),
            inputs=[
                inputs.MODEL,
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
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
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.05,
                    tooltip="How strictly to follow the prompt. 1 is loose and fastest, 5 is usual, much more looks "
                    "harsh.",
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How freely to choose. Higher is more varied, lower calmer and plainer; 0 always takes the most "
                    "likely token, so that all seeds give the same picture.",
                ),
                io.Int.Input(
                    "top_k",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip="Consider only this many most likely tokens. 0 considers all, as in training.",
                ),
                io.Float.Input(
                    "top_p",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Keep only the most likely tokens, up to this total probability: 0.9 keeps those that make up "
                    "90 %, 1 keeps all.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=list(SAMPLERS),
                    default=SAMPLERS[0],
                    optional=True,
                    tooltip="How to sample. Pictures are the same apart from rare rounding differences. Sequential "
                    "draws one token after the other. Jacobi guesses several ahead and keeps those that are right, which "
                    "can be faster for one or two pictures of plain subjects.",
                    **inputs.ADVANCED,
                ),
                io.Int.Input(
                    "window",
                    default=8,
                    min=1,
                    max=64,
                    optional=True,
                    tooltip="For jacobi: how many tokens to guess ahead. More finds longer stretches, but makes each "
                    "step heavier.",
                    **inputs.ADVANCED,
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures."),
                TokensType.Output(display_name="tokens", tooltip="The same pictures as tokens, for VQ Decode."),
            ],
        )

    @classmethod
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
    ) -> io.NodeOutput:
        preview = preview_of(janus)
        need = janus.core.drawing_need(prompt, batch_size, cfg_weight=cfg, sampler=sampler, window=window)
        if preview and preview.decodes:
            need += janus.core.decoding_need()
        tokens = janus.ready(need).generate(
            prompt,
            batch_size,
            seed=seed,
            cfg_weight=cfg,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            progress=canvas.progress(preview=preview),
            sampler=sampler,
            window=window,
        )
        pictures = janus.decode(tokens)
        if preview:
            canvas.show_frame(preview.sheet(pictures))
        return io.NodeOutput(pictures, tokens, ui={"janus_pictures": thumbnails(pictures, seed)})
