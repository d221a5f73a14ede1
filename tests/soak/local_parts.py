"""The campaign's parts in Python: damaged files, and odd prompts and settings."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from attempts import use_checkpoint, use_settings
from damage import damaged_copy, make_originals
from judging import ESCAPE, REFUSED, Outcome, Tally, Watched, drawn_by
from settings import odd_settings

ESCAPED_HARM = "refused, though nothing that counts was changed"


def damaged_files(folder: Path, seed: int, count: int) -> Iterator[Tally]:
    """Damaged checkpoints and LoRAs: loaded, drawn with, asked, and saved as one file."""
    tally, slowest = Tally("damaged files"), 0.0
    make_originals(folder / "originals")
    with Watched(use_checkpoint, folder / "files.stderr") as watched:
        for number in range(count):
            copy, saved = folder / "damaged", folder / "saved.safetensors"
            damaged = damaged_copy(folder / "originals", copy, drawn_by(seed, "files", number))
            start = time.monotonic()
            outcome = watched(damaged.checkpoint, damaged.lora, saved)
            slowest = max(slowest, time.monotonic() - start)
            if damaged.harmless and outcome.kind == REFUSED:
                outcome = Outcome(ESCAPE, f"{ESCAPED_HARM}: {outcome.text}")
            tally.add(outcome, f"{number}, {damaged.what}")
            shutil.rmtree(copy)
            saved.unlink(missing_ok=True)
    print(f"damaged files: the slowest took {slowest:.1f} s")
    yield tally


def odd_settings_in_python(folder: Path, seed: int, count: int) -> Iterator[Tally]:
    """Odd prompts and settings, after each of which the model draws and answers as before."""
    tally = Tally("odd prompts and settings in Python")
    with Watched(use_settings, folder / "settings.stderr") as watched:
        for number in range(count):
            drawing, asking, nan_at = odd_settings(drawn_by(seed, "settings", number))
            tally.add(watched(drawing, asking, nan_at), f"{number}, {drawing} {asking}"[:500])
    yield tally
