"""How a checkpoint wants its pictures drawn where the user says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import CheckpointError, shown

LIMITS = {"cfg_weight": 100.0, "temperature": 10.0, "min_p": 0.99}


@dataclass(frozen=True)
class DrawingDefaults:
    """The key `janus` of a `generation_config.json`, whose other keys are about text. What is missing suits Janus-Pro."""

    cfg_weight: float = 5.0
    temperature: float = 1.0
    min_p: float = 0.0

    @classmethod
    def from_dict(cls, raw: dict[str, Any], *, source: str = "generation_config.json") -> DrawingDefaults:
        """Read a parsed `generation_config.json`. Raises CheckpointError for other names, and numbers out of range."""
        given = raw.get("janus", {})
        for name, value in given.items() if isinstance(given, dict) else [("janus", given)]:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if name not in LIMITS or not number or not 0 <= value <= LIMITS[name]:
                may = ", ".join(f"{name} (0 to {limit:g})" for name, limit in LIMITS.items())
                raise CheckpointError(
                    f"{source} has the drawing default {shown(name)} = {shown(value)}: there may be {may}, so correct or "
                    "remove it."
                )
        return cls(**given)
