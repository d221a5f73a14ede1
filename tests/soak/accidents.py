"""The campaign's part on what happens to a server: it is killed, its disk is full, its folder is read-only."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from comfy_server import ComfyServer, Graph
from damage import DATA, make_originals
from judging import ESCAPE, REFUSED, RIGHT, Outcome, Tally, drawn_by
from safetensors.torch import load_file, save
from serving import GoodRuns, fill, graph_of, outcome_of, saving
from small_hub import SmallHub, Trouble

LABEL, NAME, REPO = "Janus-Pro-1B (download, 4.2 GB)", "Janus-Pro-1B", "deepseek-ai/Janus-Pro-1B"
STALL = 15_000_000  # bytes of the download after which the hub may wait


def kills_and_disks(folder: Path, seed: int, *, kills: int, disks: int) -> Iterator[Tally]:
    """`kills` of each kind, and `disks` full disks and read-only folders of each kind, with a hub for the downloads."""
    originals, base = folder / "originals", folder / "accidents"
    if not originals.exists():
        make_originals(originals)
    with SmallHub() as hub:
        hub.repos[REPO] = _published()
        running = ComfyServer(base, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0")
        fill(base, originals)
        with running as server:
            runs = GoodRuns(server)
            yield from _limited(server, runs, hub, seed, disks)
            yield from _read_only(server, runs, seed, disks)
            yield from _killed(server, runs, hub, seed, kills)


def _published() -> dict[str, bytes]:
    """The tiny model's files, with a tensor that no Janus needs, so that a download of 30 MB takes a while."""
    files = {path.name: path.read_bytes() for path in (DATA / "tiny_deepseek").iterdir() if path.suffix == ".json"}
    state = load_file(DATA / "tiny_deepseek" / "model.safetensors")
    state["vision_model.vision_tower.attn_pool.latent"] = torch.rand(26_000_000 // 4)
    return files | {"model.safetensors": save(state)}


def _killed(server: ComfyServer, runs: GoodRuns, hub: SmallHub, seed: int, count: int) -> Iterator[Tally]:
    """Kill the server while it draws, saves and downloads. Started again, it does the same to the end."""
    for kind in ("draw", "save", "download"):
        tally = Tally(f"kills during {kind}")
        for number in range(count):
            draw = drawn_by(seed, f"kill {kind}", number)
            graph = {
                "draw": graph_of("text_to_image", 30_000 + number, batch_size=16),
                "save": saving(f"kept {number}"),
                "download": graph_of("text_to_image", checkpoint=LABEL),
            }[kind]
            hub.trouble = Trouble(stall_at=draw.choice((None, STALL)))
            _kill_during(server, graph, draw)
            hub.trouble.over.set()
            hub.trouble = Trouble()
            tally.add(_again(server, kind, number), f"{number}, the same again")
            runs.check(tally)
            if kind == "download":
                runs.check(tally, checkpoint=NAME)
            _empty(server)
        yield tally


def _kill_during(server: ComfyServer, graph: Graph, draw: Random) -> None:
    def send() -> None:
        with contextlib.suppress(Exception):  # the server ends under it
            server.run(graph, timeout=30)

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(draw.uniform(0.02, 0.8))
    server.process.kill()
    thread.join()
    server.__exit__()
    server.__enter__()


def _again(server: ComfyServer, kind: str, number: int) -> Outcome:
    """What was cut off, done to its end; a file that is listed before must be whole."""
    if kind == "save":
        file = server.base / "models" / "janus" / f"kept {number}.safetensors"
        outcome = (
            Outcome(RIGHT, "the file was whole") if file.exists() else outcome_of(server, saving(f"kept {number}"))
        )
        if outcome.kind == RIGHT:
            outcome = outcome_of(server, graph_of("text_to_image", 1, checkpoint=file.name))
    elif kind == "download":
        outcome = outcome_of(server, graph_of("text_to_image", 1, checkpoint=LABEL))
    else:
        outcome = outcome_of(server, graph_of("text_to_image", 30_000 + number, batch_size=16))
    return outcome if outcome.kind != REFUSED else Outcome(ESCAPE, f"refused: {outcome.text}")


def _empty(server: ComfyServer) -> None:
    """Delete what was saved and downloaded; whatever else has come stays, and would be found."""
    folder = server.base / "models" / "janus"
    for path in [*folder.glob("kept *.safetensors"), *(folder / NAME).glob("*")]:
        path.unlink()
    if (folder / NAME).exists():
        (folder / NAME).rmdir()


def _limited(server: ComfyServer, runs: GoodRuns, hub: SmallHub, seed: int, count: int) -> Iterator[Tally]:
    """No file may grow beyond a random size, which a write meets as it meets a full disk. Then there is room."""
    for kind, largest in (("save", 3_900_000), ("download", 25_000_000)):
        tally = Tally(f"full disks during {kind}")
        for number in range(count):
            draw = drawn_by(seed, f"disk {kind}", number)
            graph = saving(f"kept {number}") if kind == "save" else graph_of("text_to_image", 2, checkpoint=LABEL)
            with _file_limit(server.process.pid, draw.randrange(1_500_000, largest)):
                outcome = outcome_of(server, graph)
            hub.trouble = Trouble()
            if outcome.kind == RIGHT:
                outcome = Outcome(ESCAPE, "it went right on a full disk")
            tally.add(outcome, str(number))
            tally.add(_again(server, kind, number), f"{number}, with room")
            runs.check(tally)
            _empty(server)
        left = [path.name for path in (server.base / "models" / "janus").iterdir() if path.name != "tiny"]
        tally.check(not left, "what is left", str(left))
        yield tally


@contextlib.contextmanager
def _file_limit(process: int, size: int) -> Iterator[None]:
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


def _read_only(server: ComfyServer, runs: GoodRuns, seed: int, count: int) -> Iterator[Tally]:
    """A model folder that may be read only, or is a disk of 3 MB: as root a small one is mounted, as it may write to any."""
    tally, folder = Tally("a read-only folder and a small disk"), server.base / "models" / "janus"
    graphs: list[Any] = [saving("kept 0"), graph_of("text_to_image", 3, checkpoint=LABEL)]
    for options in ("ro", "size=3m"):
        with _made_so(folder, options) as made:
            for number in range(count if made else 0):
                draw = drawn_by(seed, options, number)
                outcome = outcome_of(server, draw.choice(graphs))
                right = outcome.kind == RIGHT
                tally.add(Outcome(ESCAPE, "it was written") if right else outcome, f"{options} {number}")
        print(f"a folder with {options}: {'tried' if made else 'not possible for this user'}", flush=True)
    runs.check(tally)
    yield tally


@contextlib.contextmanager
def _made_so(folder: Path, options: str) -> Iterator[bool]:
    """The folder with mount options, with `tiny` in it; without root only "ro" is possible."""
    if os.geteuid():
        folder.chmod(0o500 if options == "ro" else 0o700)
        yield options == "ro"
        folder.chmod(0o700)
        return
    tiny = folder / "tiny"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], check=False)  # noqa: S603, S607
    if made.returncode:
        yield False
        return
    try:
        tiny.symlink_to(DATA / "tiny_deepseek")
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)  # noqa: S603, S607
        yield True
    finally:
        subprocess.run(["umount", "-l", folder], check=True)  # noqa: S603, S607
