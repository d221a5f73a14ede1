"""Janus Sampling: the finer settings of drawing, as one value for Janus Text-to-Image."""

from comfy_api.latest import io

from ..janus_core import InputError
from . import inputs
from .types import SamplingSettings, SamplingType

OWN = -1.0  # of min_p and cfg_end


def or_none(name: str, value: float, otherwise: str) -> float | None:
    """None for OWN. Raises InputError for any other value below 0, and NaN."""
    if value == OWN:
        return None
    if not value >= 0:
        raise InputError(f"{name} is {value}: give 0 or more, or -1 for {otherwise}.")
    return value


class JanusSampling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusSampling",
            display_name="Janus Sampling",
            category="Janus",
            description="Finer settings for Janus Text-to-Image: how it chooses each token of a picture. Where this is "
            "connected, it overrules that node's own top_k, top_p, sampler and window.",
            **inputs.search_aliases("min p", "cfg schedule", "entropy", "top k", "top p", "jacobi", "janus pro"),
            inputs=[
                io.Float.Input(
                    "min_p",
                    default=OWN,
                    min=OWN,
                    max=0.99,
                    step=0.01,
                    tooltip="Leave out what hardly fits the prompt: tokens less likely than this share of the likeliest one. "
                    "A little, such as 0.02, gives cleaner pictures, more gives plainer ones. 0 leaves out nothing, -1 "
                    "takes the model's own value.",
                ),
                io.Float.Input(
                    "cfg_end",
                    default=OWN,
                    min=OWN,
                    max=30.0,
                    step=0.05,
                    tooltip="The cfg at the end of the picture, its bottom right corner; it begins with that of Janus "
                    "Text-to-Image. -1 keeps that for the whole picture.",
                ),
                io.Float.Input(
                    "cfg_power",
                    default=1.0,
                    min=0.1,
                    max=10.0,
                    step=0.1,
                    tooltip="How the cfg gets to cfg_end. 1 changes it evenly, more keeps it near its start for longer, less "
                    "than 1 changes it early.",
                ),
                io.Float.Input(
                    "entropy_temperature",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="More temperature where the model is sure, and hardly any where it is not: livelier plain areas "
                    "without a messier subject. 0 adds none, up to 2 is usual.",
                ),
                *inputs.choosing_tokens(overruled=False),
            ],
            outputs=[
                SamplingType.Output(display_name="sampling", tooltip="The settings, for Janus Text-to-Image."),
            ],
        )

    @classmethod
    @inputs.checked
    def execute(
        cls,
        *,
        min_p: float,
        cfg_end: float,
        cfg_power: float,
        entropy_temperature: float,
        top_k: int,
        top_p: float,
        sampler: str,
        window: int,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            SamplingSettings(
                min_p=or_none("min_p", min_p, "the model's own"),
                cfg_end=or_none("cfg_end", cfg_end, "the cfg of the start"),
                cfg_power=cfg_power,
                entropy_temperature=entropy_temperature,
                top_k=top_k,
                top_p=top_p,
                sampler=sampler,
                window=window,
            )
        )
