"""Janus LoRA: a model with a LoRA on top."""

import math

from comfy_api.latest import io

from ..janus_core import InputError
from ..janus_core.weights.lora import ADAPTER_CONFIG, read_lora
from . import inputs
from .host import folders
from .host.weights import HostedJanus
from .types import JanusType


class JanusLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusLoRA",
            display_name="Janus LoRA",
            category="Janus",
            description="Adds a LoRA that was trained for this Janus: a style, a subject, a way to answer. Several can "
            "follow each other.",
            **inputs.search_aliases("janus pro", "adapter", "fine-tune"),
            inputs=[
                JanusType.Input(
                    "janus", tooltip="The model, from Load Janus or another Janus LoRA. It stays as it is."
                ),
                io.Combo.Input(
                    "lora",
                    options=folders.loras(),
                    tooltip="The LoRA to add. Put the files into models/loras; a LoRA from PEFT keeps its "
                    "adapter_config.json beside it, in a folder of its own.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    tooltip="How much of it: 1 is as trained, 0 has no effect, negative values invert it.",
                ),
            ],
            # Not "janus": an output may not have the id of an input.
            outputs=[JanusType.Output("patched", display_name="janus", tooltip="The model with the LoRA.")],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        # None: missing, or connected to another node.
        return lora is None or inputs.problem_of(
            lambda: inputs.check_kind("lora", lora), lambda: folders.lora_path(lora)
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str | None, **_: object) -> folders.Stamps | None:
        """Changes when the file, or PEFT's config beside it, is replaced on disk."""
        if lora is None:
            return None
        path = folders.lora_path(lora)
        return folders.file_stamps(file for file in (path, path.with_name(ADAPTER_CONFIG)) if file.exists())

    @classmethod
    @inputs.checked
    def execute(cls, janus: HostedJanus, lora: str, strength: float) -> io.NodeOutput:
        if not math.isfinite(strength):
            raise InputError(f"The strength is {strength}: give a number, usually between -1 and 1.")
        layers = read_lora(folders.lora_path(lora), janus.core.model)
        return io.NodeOutput(janus.with_lora(layers, strength) if strength else janus)
