"""Janus Prompt: a short prompt, written out by the model, for any model that draws."""

from comfy_api.latest import io

from ..janus_core.thinking import better_prompt, think, thinking_need
from . import inputs
from .host import canvas
from .host.weights import HostedJanus


class JanusPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusPrompt",
            display_name="Janus Prompt",
            category="Janus",
            description="Writes out a short prompt: what is in the picture, where, and in what light. Wire the text to Janus "
            "Text-to-Image, or to CLIP Text Encode for SDXL, Flux and others.",
            **inputs.search_aliases("prompt enhancer", "rewrite", "expand", "thinking", "llm", "janus pro"),
            inputs=[
                inputs.MODEL,
                inputs.text_box(
                    "prompt",
                    placeholder="A few words",
                    tooltip="What the picture is about, in a few words.",
                ),
                inputs.seed(
                    control_after_generate=True,
                    tooltip="Varies the words when the temperature is above 0; at 0 it changes nothing.",
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How freely to write. 0 always picks the most likely token, so the text is the same each time.",
                ),
                inputs.MAX_TOKENS,
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The longer prompt."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    @inputs.checked
    def execute(
        cls, janus: HostedJanus, prompt: str, *, seed: int, temperature: float, max_tokens: int
    ) -> io.NodeOutput:
        core = janus.ready(thinking_need(janus.core, prompt, max_tokens=max_tokens))
        show = lambda text: canvas.show_output(cls.hidden.unique_id, {"text": [text]})
        settings = {"seed": seed, "temperature": temperature, "max_tokens": max_tokens}
        [thought] = think(core, prompt, **settings, progress=canvas.answer_progress(core, show))
        text = better_prompt(core, prompt, thought)
        return io.NodeOutput(text, ui={"text": [text]})
