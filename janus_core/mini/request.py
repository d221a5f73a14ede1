"""What a drawing prompt asks a picture to show."""

from dataclasses import dataclass
from typing import Any

from .world import CELL, Thing


@dataclass(frozen=True)
class Wanted:
    """An object as a prompt describes it. None: the prompt leaves it open."""

    shape: str | None
    colour: str | None = None
    size: str | None = None
    cell: int | None = None


@dataclass(frozen=True)
class Request:
    """The objects, the position of the first relative to the second ("left of", ...), and the background."""

    things: tuple[Wanted | Thing, ...]
    relation: str | None = None
    background: str | None = None


def relation_holds(relation: str, a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether centre `a` (x, y) is "left of", "right of", "above" or "below" centre `b`, by half a cell or more."""
    right, down = a[0] - b[0], a[1] - b[1]
    return {"left of": -right, "right of": right, "above": -down, "below": down}[relation] >= CELL / 2


def fits(wanted: Wanted | Thing, found: Any) -> bool:
    """Whether an object found (a Thing, or the judge's Detection) is recognised and has each property that is asked for."""
    return None not in (found.shape, found.colour) and all(
        getattr(wanted, name) in (None, getattr(found, name)) for name in ("shape", "colour", "size", "cell")
    )
