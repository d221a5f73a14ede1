"""What may come of a hostile attempt: a right result, or one clear sentence. All else is an escape or a hang."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from typing_extensions import Self

from janus_core import CheckpointError, InputError
from janus_core.errors import MemoryExhaustedError

LONGEST = 10.0  # seconds that an attempt may take
MOST_MEMORY = 1_000_000_000  # bytes that the process may grow by in one attempt
START = 120.0  # seconds until a new process is ready
RIGHT, REFUSED, ESCAPE, HANG = "right", "refused", "escape", "hang"
SENTENCES = (CheckpointError, InputError, MemoryExhaustedError)
# What no user should read: a place in a program, or an address in memory.
INTERNAL = re.compile(r'Traceback|File "|site-packages|frame #|Exception raised from|0x[0-9a-f]{8}|object at')


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and its result, sentence or error as text."""

    kind: str
    text: str


def flaw(sentence: str) -> str | None:
    """What keeps a message from being one clear sentence for a user, or None."""
    if not sentence.isprintable():
        return "it is more than one printable line"
    if not 10 < len(sentence) < 1200 or not sentence.endswith("."):
        return f"it has {len(sentence)} characters and ends with {sentence[-1:]!r}"
    if found := INTERNAL.search(sentence):
        return f"it shows {found[0]!r}"
    return None


def judge(error: BaseException) -> Outcome:
    """The outcome of an attempt that raised."""
    if not isinstance(error, SENTENCES):
        return Outcome(ESCAPE, f"{type(error).__name__}: {error}")
    problem = flaw(str(error))
    return Outcome(ESCAPE, f"{problem}: {str(error)!r}") if problem else Outcome(REFUSED, str(error))


class Watched:
    """`with Watched(job) as watched:` calls `job` in a process of its own, which ends and starts again where it hangs.

    `job` is a module's function that returns a text, and raises AssertionError where the result is wrong. What the process
    writes to standard error goes to `log`.
    """

    def __init__(self, job: Callable[..., str], log: Path):
        self.job, self.log = job, log

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")  # a fork would inherit PyTorch's threads, but not run them
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.job, str(self.log)), daemon=True)
        self.process.start()
        theirs.close()
        assert self.pipe.poll(START), f"the process did not start; {self.log} says why"
        self.pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def __call__(self, *arguments: Any) -> Outcome:
        """One attempt."""
        self.pipe.send(arguments)
        if not self.pipe.poll(LONGEST):
            outcome = Outcome(HANG, f"no end after {LONGEST:.0f} s")
        else:
            try:
                return self.pipe.recv()
            except EOFError:
                self.process.join()
                outcome = Outcome(ESCAPE, f"the process ended with code {self.process.exitcode}")
        self.__exit__()
        self.__enter__()
        return outcome


def _work(pipe: Connection, job: Callable[..., str], log: str) -> None:
    torch.set_num_threads(1)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 2)
    pipe.send(None)
    while True:
        arguments = pipe.recv()
        before = _memory(reset=True)
        try:
            outcome = Outcome(RIGHT, job(*arguments))
        except BaseException as error:  # noqa: BLE001 (a panic of a library in Rust is no Exception)
            outcome = judge(error)
        if (grown := _memory() - before) > MOST_MEMORY:
            outcome = Outcome(ESCAPE, f"took {grown / 1e9:.1f} GB ({outcome.text})")
        pipe.send(outcome)


def _memory(reset: bool = False) -> int:
    """The most bytes this process has held since the last reset; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else 0


@dataclass
class Tally:
    """The outcomes of one kind of attempt."""

    name: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((RIGHT, REFUSED, ESCAPE, HANG), 0))
    bad: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, what: str) -> Outcome:
        """Count an outcome of an attempt, and print it where it is bad."""
        self.counts[outcome.kind] += 1
        if outcome.kind in (ESCAPE, HANG):
            self.bad.append(f"{self.name}, {what}: {outcome.kind}: {outcome.text[:1000]}")
            print(self.bad[-1], flush=True)
        return outcome

    def check(self, right: bool, what: str, text: str = "") -> None:
        """Count something that must be so."""
        self.add(Outcome(RIGHT if right else ESCAPE, text), what)


def table(tallies: Iterable[Tally]) -> str:
    """The counts as a table in Markdown."""
    lines = ["| what | tried | right | refused in a sentence | escapes | hangs |", "|---|---|---|---|---|---|"]
    for tally in tallies:
        counts = tally.counts
        lines.append(f"| {tally.name} | {sum(counts.values())} | " + " | ".join(map(str, counts.values())) + " |")
    return "\n".join(lines)


def drawn_by(seed: int, kind: str, number: int) -> random.Random:
    """The random numbers of one attempt: it can be repeated alone."""
    return random.Random(f"{seed} {kind} {number}")
