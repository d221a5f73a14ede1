"""The log of a training run: a progress line with losses and time left, a CSV of every figure, its curves as a PNG."""

import csv
import math
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw

CURVE_COLOURS = ("#1f6fb4", "#d0432b", "#2c9a4b", "#8a4fc0", "#c98a00", "#444444")
PANEL_WIDTH, PANEL_HEIGHT = 720, 180  # px


class RunLog:
    """Appends rows of figures to `folder/<name>.csv` and prints each with the time left.

    A run that resumes at `step` keeps the file's rows up to that step.
    """

    def __init__(self, folder: Path, name: str, columns: tuple[str, ...], *, step: int = 0):
        self.path, self.columns, self.name = folder / f"{name}.csv", ("step", *columns), name
        self.start_step, self.start_time = step, time.monotonic()
        kept = [row for row in read_rows(self.path) if int(row["step"]) <= step] if self.path.exists() else []
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(kept)

    def report(self, step: int, total: int, figures: dict[str, float]) -> None:
        """Add the figures of step `step` of `total`, by column."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step] + [f"{figures[c]:.6g}" if c in figures else "" for c in self.columns[1:]])
        seconds = (time.monotonic() - self.start_time) / max(step - self.start_step, 1)
        left = int(seconds * (total - step))
        text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
        print(f"{self.name} {step}/{total}  {text}  {1 / max(seconds, 1e-9):.2f} steps/s  "
              f"left {left // 3600}:{left // 60 % 60:02}:{left % 60:02}", file=sys.stderr, flush=True)  # fmt: skip

    def draw(self) -> None:
        """Write the curves of the CSV to `folder/<name>.png`."""
        draw_curves(read_rows(self.path), self.path.with_suffix(".png"))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that RunLog wrote."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def draw_curves(rows: list[dict[str, str]], target: Path) -> None:
    """Draw one panel for each column: its curve on a logarithmic scale, with its first, last and extreme values."""
    columns = [c for c in rows[0] if c != "step"] if rows else []
    sheet = Image.new("RGB", (PANEL_WIDTH, PANEL_HEIGHT * max(len(columns), 1)), "white")
    pen = ImageDraw.Draw(sheet)
    for panel, column in enumerate(columns):
        points = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        if not points:
            continue
        top = panel * PANEL_HEIGHT
        low, high = min(v for _, v in points), max(v for _, v in points)
        scale = math.log if low > 0 else float  # a rate may end at 0
        first, last = points[0][0], points[-1][0]
        line = [
            (10 + (step - first) / max(last - first, 1) * (PANEL_WIDTH - 20),
             top + PANEL_HEIGHT - 15 - (scale(value) - scale(low)) / max(scale(high) - scale(low), 1e-12) * (PANEL_HEIGHT - 45))
            for step, value in points
        ]  # fmt: skip
        pen.line([(10, top + PANEL_HEIGHT - 15), (PANEL_WIDTH - 10, top + PANEL_HEIGHT - 15)], fill="#bbbbbb")
        if len(line) > 1:
            pen.line(line, fill=CURVE_COLOURS[panel % len(CURVE_COLOURS)], width=2)
        summary = f"{column}: {points[0][1]:.4g} -> {points[-1][1]:.4g}  (from {low:.4g} to {high:.4g}, step {first} to {last})"
        pen.text((10, top + 6), summary, fill="black")
    sheet.save(target)
