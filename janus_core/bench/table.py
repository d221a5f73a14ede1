"""Figures as rows, and rows as a Markdown table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """One measurement: a figure by engine, and the floor where there is one, both in `unit`."""

    what: str
    unit: str
    values: dict[str, float] = field(default_factory=dict)
    floor: float | None = None


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def comparison(rows: Sequence[Row]) -> str:
    """The rows as Markdown, with the ratio of ours to each other engine and to the floor."""
    others = [name for name in dict.fromkeys(name for row in rows for name in row.values) if name != "ours"]
    columns = (*others, "ours", "floor")
    lines = []
    for row in rows:
        found = row.values | ({"floor": row.floor} if row.floor else {})
        figures = [f"{found[name]:.4g}" if name in found else "" for name in columns]
        ratios = [f"{found['ours'] / found[name]:.2f}" if name in found else "" for name in (*others, "floor")]
        lines.append([f"{row.what}, {row.unit}", *figures, *ratios])
    return markdown(["", *columns, *(f"ours / {name}" for name in (*others, "floor"))], lines)
