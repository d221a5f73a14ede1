"""Load Janus: a model from a listed name; published ones are downloaded first."""

from comfy_api.latest import io

from ..janus_core.weights.checkpoint import find
from ..janus_core.weights.download import fetch
from . import inputs
from .host import canvas, folders, weights
from .types import JanusType


class JanusLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusLoader",
            display_name="Load Janus",
            category="Janus",
            description="Opens a Janus or Janus-Pro model, which both draws pictures and answers questions about them.",
            **inputs.search_aliases("janus pro", "autoregressive", "checkpoint", "multimodal"),
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[*folders.checkpoints(), *folders.downloads()],
                    default=folders.EMBEDDED,
                    tooltip="The model to use. Those marked (download) come from Hugging Face into models/janus when "
                    "you run, and stay there. Your own models go there too, each in its own folder with its "
                    "config.json, or as single files that Save Janus wrote. The embedded one needs no download.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(weights.DTYPES),
                    default="auto",
                    tooltip="How exactly the model calculates. Auto takes what your graphics card does best, and int8 "
                    "when it has too little free memory for that; the log says which. bf16 and fp16 take half the "
                    "memory of fp32, int8 and fp8_e4m3fn about half of that again, and int8 is the more exact.",
                ),
                io.Combo.Input(
                    "dialect",
                    options=["auto", *weights.DIALECTS],
                    default="auto",
                    optional=True,
                    tooltip="How to speak to the model: fine-tunes of Janus-Pro were trained with words of their own. Auto "
                    "tells by the model's files or name; the log says which one it took.",
                    **inputs.ADVANCED,
                ),
            ],
            outputs=[
                JanusType.Output(display_name="janus", tooltip="The model, for all the other Janus nodes."),
            ],
        )

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        if checkpoint is None:  # missing, or connected to another node
            return True

        def check() -> None:
            inputs.check_kind("checkpoint", checkpoint)
            if checkpoint not in folders.downloads():
                find(folders.checkpoint_path(checkpoint)).config()

        return inputs.problem_of(check)

    @classmethod
    def fingerprint_inputs(cls, checkpoint: str | None, **_: object) -> folders.Stamps | None:
        """Changes when a file of the checkpoint is replaced on disk."""
        if checkpoint is None or checkpoint in folders.downloads():
            return None
        return folders.checkpoint_stamps(folders.checkpoint_path(checkpoint))

    @classmethod
    @inputs.checked
    def execute(cls, checkpoint: str, dtype: str, dialect: str = "auto") -> io.NodeOutput:
        if model := folders.downloads().get(checkpoint):
            fetch(model, folders.new_checkpoint_folder(), progress=canvas.progress())
        path = folders.checkpoint_path(checkpoint)
        return io.NodeOutput(weights.load_janus(path, dtype, None if dialect == "auto" else dialect))
