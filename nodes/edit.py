"""Janus Edit: pictures, changed as an instruction says."""

import torch
from comfy_api.latest import io

from ..janus_core import editing
from ..janus_core.pictures import over_white
from . import inputs
from .host import canvas
from .host.weights import HostedJanus
from .preview import ready_to_draw
from .repaint import OUTPUTS, SAMPLING, SEED, drawing_settings
from .seeds import thumbnails
from .types import SamplingSettings


class JanusEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusEdit",
            display_name="Janus Edit",
            category="Janus",
            description="Draws a picture again, changed as you say: another season, another style, something more or less in it. "
            "For Janus-4o-7B, which was trained for it.",
            **inputs.search_aliases("image to image", "img2img", "instruct", "change", "janus 4o"),
            **inputs.shown_from_cache(),
            inputs=[
                inputs.MODEL,
                io.Image.Input(
                    "image",
                    tooltip="One or more pictures; each is changed. The model sees a square: crop others first, or they get "
                    "grey bars.",
                ),
                inputs.text_box(
                    "instruction",
                    placeholder="What to change",
                    tooltip="What to change, as you would ask a painter: make it night, add a red hat, turn it into a "
                    "watercolour.",
                ),
                SEED,
                inputs.CFG,
                io.Float.Input(
                    "image_cfg",
                    default=5.0,
                    min=0.0,
                    max=30.0,
                    step=0.05,
                    tooltip="How freely to change the picture. At 0 its every detail counts as much as what is in it, higher "
                    "values keep what is in it and care less for details; 5 is usual.",
                ),
                inputs.DRAWING_TEMPERATURE,
                SAMPLING,
                io.Boolean.Input(
                    "force",
                    default=False,
                    optional=True,
                    tooltip="Let a model try that was not trained to edit. What comes has little to do with the picture.",
                    **inputs.ADVANCED,
                ),
            ],
            outputs=OUTPUTS,
        )

    @classmethod
    @inputs.checked
    def execute(
        cls,
        janus: HostedJanus,
        image: torch.Tensor,
        instruction: str,
        *,
        seed: int,
        cfg: float,
        image_cfg: float,
        temperature: float,
        sampling: SamplingSettings | None = None,
        force: bool = False,
    ) -> io.NodeOutput:
        pictures = over_white(image)
        editing.check_editing(janus.core, pictures, instruction, force=force)
        settings = {"seed": seed, "image_weight": image_cfg, **drawing_settings(cfg, temperature, sampling)}
        shown = editing.show(janus.ready(editing.showing_need(janus.core, len(pictures))), pictures)
        drawing = editing.editing_of(janus.core, shown, instruction, **settings)
        preview = ready_to_draw(janus, janus.core.need_of(drawing))
        tokens = janus.core.draw(drawing, canvas.progress(preview=preview))
        del shown, drawing  # large, and decoding counts on their memory
        edited = janus.decode(tokens)
        if preview:
            canvas.show_frame(preview.sheet(edited))
        return io.NodeOutput(edited, tokens, ui={"janus_pictures": thumbnails(edited, seed)})
