"""Janus LoRA: a small file of changes on top of a model."""

from __future__ import annotations

import math

from comfy_api.latest import io

from ..janus_core import CheckpointError, InputError
from ..janus_core.weights.lora import ADAPTER_CONFIG
from . import host
from .load import JanusType


class JanusLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusLoRA",
            display_name="Janus LoRA",
            category="Janus",
            description="Adds a LoRA that was trained for this Janus: a style, a subject, a way to answer. Several can "
            "follow each other.",
            **host.search_aliases("janus pro", "adapter", "fine-tune"),
            inputs=[
                JanusType.Input(
                    "janus", tooltip="The model, from Load Janus or another Janus LoRA. It stays as it is."
                ),
                io.Combo.Input(
                    "lora",
                    options=host.loras(),
                    tooltip="The LoRA to add. Put the files into models/loras; a LoRA from PEFT keeps its "
                    "adapter_config.json beside it, in a folder of its own.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-20.0,
                    max=20.0,
                    step=0.01,
                    tooltip="How much of it: 1 is as it was trained, 0 nothing at all, below 0 turns it round.",
                ),
            ],
            # No two ids of a node may be the same.
            outputs=[JanusType.Output("patched", display_name="janus", tooltip="The model with the LoRA.")],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None) -> bool | str:
        try:
            if lora is not None:  # else it comes over a link, and is known only when the graph runs
                host.lora_path(lora)
        except CheckpointError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora: str | None, **_: object) -> tuple[tuple[str, int, int], ...] | None:
        """Changes when the file, or what PEFT puts beside it, is replaced on disk."""
        if lora is None:
            return None
        path = host.lora_path(lora)
        return host.stamps(file for file in (path, path.with_name(ADAPTER_CONFIG)) if file.exists())

    @classmethod
    def execute(cls, janus: host.HostedJanus, lora: str, strength: float) -> io.NodeOutput:
        if not math.isfinite(strength):
            raise InputError(f"The strength is {strength}: give a number, usually between -1 and 1.")
        layers = janus.read_lora(host.lora_path(lora))
        return io.NodeOutput(janus.with_lora(layers, strength) if strength else janus)
