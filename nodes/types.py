"""The socket types of the pack's own values, and the one value that only nodes use."""

from dataclasses import dataclass

from comfy_api.latest import io

from ..janus_core.pipeline import SAMPLERS

JanusType = io.Custom("JANUS")
TokensType = io.Custom("JANUS_TOKENS")
HistoryType = io.Custom("JANUS_HISTORY")
SamplingType = io.Custom("JANUS_SAMPLING")


@dataclass(frozen=True)
class SamplingSettings:
    """The value of a JANUS_SAMPLING: keyword arguments of `Janus.generate`, under its names."""

    min_p: float | None = None
    cfg_end: float | None = None
    cfg_power: float = 1.0
    entropy_temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    sampler: str = SAMPLERS[0]
    window: int = 8
