"""How a checkpoint wants its pictures drawn where the user says nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .errors import CheckpointError, shown

SECTION = "janus"  # the key of `generation_config.json` for us; its other keys are about text
LIMITS = {"cfg_weight": 100.0, "temperature": 10.0, "min_p": 0.99, "top_k": 2**20}


@dataclass(frozen=True)
class DrawingDefaults:
    """How pictures are drawn where the user says nothing. What is missing suits Janus-Pro."""

    cfg_weight: float = 5.0
    temperature: float = 1.0
    min_p: float = 0.0
    top_k: int = 0

    def updated(self, raw: dict[str, Any], *, source: str = "generation_config.json") -> DrawingDefaults:
        """These, but for those that a parsed `generation_config.json` has under SECTION, beside the `dialect`.

        Raises CheckpointError for other names, and numbers out of range.
        """
        given = raw.get(SECTION, {})
        given = {k: v for k, v in given.items() if k != "dialect"} if isinstance(given, dict) else {SECTION: given}
        for name, value in given.items():
            number = isinstance(value, int if name == "top_k" else (int, float)) and not isinstance(value, bool)
            if name not in LIMITS or not number or not 0 <= value <= LIMITS[name]:
                may = ", ".join(f"{name} (0 to {limit:g})" for name, limit in LIMITS.items())
                raise CheckpointError(
                    f"{source} has the drawing default {shown(name)} = {shown(value)}: there may be {may}, so correct or "
                    "remove it."
                )
        return replace(self, **given)
