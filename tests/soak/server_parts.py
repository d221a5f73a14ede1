"""The campaign's parts on one real ComfyUI server: wrong prompts, many good runs, interrupts, two clients at once."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
from comfy_server import ComfyServer
from damage import make_originals
from judging import ESCAPE, HANG, LONGEST, Outcome, Tally, drawn_by
from serving import SHIPPED, GoodRuns, fill, graph_of, judge_run, outcome_of, wrong_graph

FLAT = 0.01  # how much memory, threads and files may grow by
SEEDS = 20  # of good runs
EVERY = 50  # wrong prompts between two good runs


def on_one_server(folder: Path, seed: int, *, wrong: int, good: int, interrupts: int) -> Iterator[Tally]:
    """All parts in turn, on a server that is never started again."""
    originals, base = folder / "originals", folder / "one server"
    if not originals.exists():
        make_originals(originals)
    running = ComfyServer(base)
    fill(base, originals)
    with running as server:
        runs = GoodRuns(server)
        yield from wrong_prompts(server, runs, seed, wrong)
        yield from good_runs(server, runs, good)
        yield from interrupted_runs(server, runs, seed, interrupts)
        yield from two_clients(server, runs, max(good // 10, 4))


def wrong_prompts(server: ComfyServer, runs: GoodRuns, seed: int, count: int) -> Iterator[Tally]:
    """Odd inputs over HTTP; after every 50 a good run, and no file may have come where none belongs."""
    tally, between = Tally("wrong prompts over HTTP"), Tally("good runs between them")
    runs.check(between)
    files = _files(server)
    for number in range(count):
        graph, what = wrong_graph(drawn_by(seed, "prompts", number), number)
        tally.add(outcome_of(server, graph), f"{number}, {what}")
        if number % EVERY == EVERY - 1 or number == count - 1:
            runs.check(between)
            for path in (server.base / "models" / "janus").glob("*.safetensors"):  # a Save whose odd input was good
                path.unlink()
            between.check(_files(server) == files, "files", str(_files(server) ^ files)[:500])
            server.post("/history", {"clear": True})
    yield tally
    yield between


def _files(server: ComfyServer) -> set[Path]:
    changing = ("temp", "user", "server.log", "custom_nodes")
    found = (path for path in server.base.rglob("*") if path.relative_to(server.base).parts[0] not in changing)
    return {path for path in found if path.is_file()}


def good_runs(server: ComfyServer, runs: GoodRuns, count: int) -> Iterator[Tally]:
    """The same seeds again and again: equal outputs, and in the end no more memory, threads and files than at first."""
    tally, flat, process = Tally("good runs"), Tally("flat within 1 %"), psutil.Process(server.process.pid)
    measured: dict[str, list[float]] = {"memory": [], "threads": [], "files": []}
    for number in range(count):
        runs.check(tally, SHIPPED[number % len(SHIPPED)], 100 + number % SEEDS)
        if number % 10 == 9:
            server.post("/history", {"clear": True})
        measured["memory"].append(process.memory_info().rss / 1e6)
        measured["threads"].append(process.num_threads())
        measured["files"].append(process.num_fds())
    for name, values in measured.items():
        part = max(len(values) // 5, 1)
        early, late = statistics.median(values[part : 2 * part] or values), statistics.median(values[-part:])
        text = f"{name}: {early:.1f} early, {late:.1f} late, {late / early - 1:+.2%}"
        print(text, flush=True)
        flat.check(late <= early * (1 + FLAT), name, text)
    yield tally
    yield flat


def interrupted_runs(server: ComfyServer, runs: GoodRuns, seed: int, count: int) -> Iterator[Tally]:
    """Interrupts at random moments of a drawing and an answer; every tenth time a good run follows."""
    tally, stopped = Tally("interrupts at random moments"), 0
    for number in range(count):
        draw = drawn_by(seed, "interrupts", number)
        graph = graph_of("draw_then_describe", 20_000 + number, batch_size=4)
        timer = threading.Timer(draw.uniform(0, 0.4), server.post, ["/interrupt"])
        timer.start()
        try:
            run = server.run(graph, timeout=LONGEST)
            outcome, stopped = judge_run(run), stopped + (run.end == "execution_interrupted")
        except TimeoutError:
            outcome = Outcome(HANG, "no end")
        except (OSError, ValueError) as error:
            outcome = Outcome(ESCAPE, repr(error))
        timer.join()
        tally.add(outcome, str(number))
        if number % 10 == 9:
            runs.check(tally)
    print(f"interrupts: {stopped} of {count} stopped a run, the others came before or after it", flush=True)
    yield tally


def two_clients(server: ComfyServer, runs: GoodRuns, count: int) -> Iterator[Tally]:
    """Two clients send at once: each gets its own pictures."""
    tally = Tally("runs of two clients at once")
    for seed in (100, 101):
        runs.check(tally, seed=seed)

    def send(seed: int) -> None:
        for _ in range(count // 2):
            runs.check(tally, seed=seed)

    threads = [threading.Thread(target=send, args=(seed,)) for seed in (100, 101)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield tally
