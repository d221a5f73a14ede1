"""The same work on a cluster, by Ray Data: actors that each hold the model, and results that come back by key.

What is written, and where, is the caller's: so a run on a cluster resumes as one on a single machine, and either continues
the other. An actor that dies is started again, and what it had in hand is done again.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import load
from ..errors import CheckpointError, InputError, MemoryExhaustedError
from ..pictures import to_pil
from ..pipeline import Janus
from .answers import answer_all
from .drawing import draw_all
from .items import Item
from .sizes import fitting_pictures, fitting_rows, most_at_once

LOCAL = "local"
CALLS = 4  # batches that an actor gets at a time
STOPS = {error.__name__: error for error in (CheckpointError, InputError, MemoryExhaustedError)}
Columns = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What the actors do: on which model, and with which settings of `answer_all` or `draw_all`.

    `batch` None is what fits each actor's memory. Without a GPU an actor has `cores`.
    """

    checkpoint: str
    device: str
    dtype: str
    settings: dict[str, Any]
    batch: int | None = None
    cores: int = 1


class Worker:
    """An actor: it loads the model once, and works through batches of items.

    What stops all of the work is a result too: an exception would have Ray start actors again and again.
    """

    def __init__(self, job: Job):
        if job.device == "cpu":
            torch.set_num_threads(job.cores)
        self.job, self.made, self.errors = job, {}, {}
        self.stopped = self._try(lambda: load(job.checkpoint, job.device, job.dtype))

    def _try(self, do: Callable[[], Any]) -> str:
        """Call `do`, whose result is the model if it is one. Returns the name of the error that stops the work, or ""."""
        try:
            if isinstance(found := do(), Janus):
                self.janus = found
        except tuple(STOPS.values()) as error:
            self.reason = str(error)
            return type(error).__name__
        return ""

    def __call__(self, columns: Columns) -> Columns:
        """Items as columns -> `key`, what was `made` of each, or the `error`; `stopped` is not "" if that stops the work."""
        items = list(_items(columns))
        self.made, self.errors = {}, {}
        self.stopped = self.stopped or self._try(lambda: self.work(items))
        if self.stopped:
            return {"key": [""], "made": [None], "error": [self.reason], "stopped": [self.stopped]}
        keys = [item.key for item in items]
        return {
            "key": keys,
            "made": [self.made.get(key) for key in keys],
            "error": [self.errors.get(key, "") for key in keys],
            "stopped": [""] * len(keys),
        }

    def work(self, items: list[Item]) -> None:
        """Fill `made` and `errors`."""
        raise NotImplementedError

    def failed(self, item: Item, error: InputError) -> None:
        self.errors[item.key] = str(error)


class Answers(Worker):
    def work(self, items: list[Item]) -> None:
        rows = self.job.batch or fitting_rows(self.janus, max_new_tokens=self.job.settings["max_new_tokens"])

        def finished(item: Item, answer: str) -> None:
            self.made[item.key] = answer

        answer_all(self.janus, items, rows=rows, **self.job.settings, finished=finished, failed=self.failed)


class Pictures(Worker):
    """`made` are PNG files."""

    def work(self, items: list[Item]) -> None:
        batch = self.job.batch or fitting_pictures(self.janus, **self.job.settings)

        def finished(some: list[Item], pictures: torch.Tensor) -> None:
            for item, picture in zip(some, pictures, strict=True):
                file = BytesIO()
                to_pil(picture).save(file, "PNG")
                self.made[item.key] = file.getvalue()

        draw_all(self.janus, items, batch=batch, finished=finished, failed=self.failed, **self.job.settings)


def work_on_ray(
    kind: type[Worker],
    job: Job,
    items: Iterable[Item],
    *,
    address: str,
    finished: Callable[[Item, Any], object],
    failed: Callable[[Item, InputError], object],
) -> None:
    """Do `items` on the Ray cluster at `address`, or for LOCAL on one of this machine alone.

    There is one actor for each GPU, or on CPUs for each `job.cores` of them. `finished(item, answer or PNG)` is called as
    results come back, `failed(item, error)` for one that cannot be done; each item comes once. Files are read where the
    actors are. The connection stays until the process ends, and one that is there is used. Raises InputError without Ray or
    a cluster, and what the work raises.
    """
    waiting = {item.key: item for item in items}
    size = CALLS * (job.batch or most_at_once(torch.device(job.device)))
    ray = _started(address)
    rows = [_row(item) for item in waiting.values()]
    blocks = -(-len(rows) // size)
    dataset = ray.data.from_items(rows, override_num_blocks=blocks)
    resources = ray.cluster_resources()
    on_gpu = job.device != "cpu"
    actors = int(resources.get("GPU", 0) if on_gpu else resources.get("CPU", 0) // job.cores)
    if actors < 1:
        what = "no GPU: give --device cpu" if on_gpu else f"fewer than {job.cores} cores: lower --cores"
        raise InputError(f"The Ray cluster has {what}, or choose another cluster.")
    made = dataset.map_batches(
        kind,
        fn_constructor_args=(job,),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=min(actors, blocks)),
        **({"num_gpus": 1} if on_gpu else {"num_cpus": job.cores}),
    )
    for row in made.iter_rows():
        if row["stopped"]:
            raise STOPS[row["stopped"]](row["error"])
        item = waiting.pop(row["key"], None)
        if item is None:  # done again after an actor's death
            continue
        if row["error"]:
            failed(item, InputError(row["error"]))
        else:
            finished(item, row["made"])


def _started(address: str) -> Any:
    """The module ray, connected to a cluster."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("--ray needs Ray: install the pack with its extra, as in pip install '.[ray]'.") from error
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()  # Ray itself would try for minutes
        where = {"include_dashboard": False} if address == LOCAL else {}
        # It is not shut down at the end: threads of Ray Data may still be at work, and would end the process.
        if not ray.is_initialized():
            ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **where)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"There is no Ray cluster at {address} ({error}): check the address.") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _row(item: Item) -> dict[str, Any]:
    """An item as plain values: a seed may have 64 bits, and a column has one type."""
    path = str(item.picture.absolute()) if isinstance(item.picture, Path) else ""
    content = item.picture if isinstance(item.picture, bytes) else b""
    return {"key": item.key, "text": item.text, "seed": str(item.seed), "path": path, "content": content}


def _items(columns: Columns) -> Iterator[Item]:
    for key, text, seed, path, content in zip(
        *(columns[name] for name in ("key", "text", "seed", "path", "content")), strict=True
    ):
        picture = Path(path) if path else bytes(content) or None
        yield Item(str(key), str(text), picture, int(seed))
