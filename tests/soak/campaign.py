"""The whole campaign: `make soak`. It prints a table of outcomes and fails if anything escaped or hung.

Every attempt is made by random numbers from the seed, the part's name and its own number, so it can be repeated.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accidents import kills_and_disks
from judging import ESCAPE, HANG, Tally, table
from local_parts import damaged_files, odd_settings_in_python
from server_parts import on_one_server

Part = Callable[[Path, int, Callable[[int], int]], Iterator[Tally]]
PARTS: dict[str, Part] = {
    "files": lambda folder, seed, scaled: damaged_files(folder, seed, scaled(2000)),
    "settings": lambda folder, seed, scaled: odd_settings_in_python(folder, seed, scaled(1000)),
    "server": lambda folder, seed, scaled: on_one_server(
        folder, seed, wrong=scaled(2000), good=scaled(1000), interrupts=scaled(200)
    ),
    "accidents": lambda folder, seed, scaled: kills_and_disks(folder, seed, kills=scaled(20), disks=scaled(50)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full counts; 0.02 takes minutes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    tallies: list[Tally] = []
    start = time.monotonic()
    print(f"seed {args.seed}, scale {args.scale}, Python {platform.python_version()}, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="janus-soak-") as folder:
        for name in args.parts:
            for tally in PARTS[name](Path(folder), args.seed, lambda full: max(round(full * args.scale), 2)):
                tallies.append(tally)
                print(f"after {time.monotonic() - start:.0f} s: {tally.name}: {tally.counts}", flush=True)
    print(f"\nAll in {time.monotonic() - start:.0f} s:\n{table(tallies)}")
    bad = sum(tally.counts[kind] for tally in tallies for kind in (ESCAPE, HANG))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
