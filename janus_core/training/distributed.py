"""A stage on several processes: each takes a share of every step's samples, and their gradients are summed."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp


def _is_initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number. Process 0 reports and saves; outside `process_group` it is the only one."""
    return dist.get_rank() if _is_initialised() else 0


def process_count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if _is_initialised() else 1


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes; the result is bit for bit the same in each."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@contextmanager
def process_group(processes: int, device: str, work: Callable[..., None], *args: object) -> Iterator[None]:
    """Train together with `processes - 1` others, which are started here and run `work(*args)` (both picklable).

    On a CPU they share the threads, on CUDA each takes a GPU of its own. Does nothing with one process, or inside a
    worker.
    """
    if processes == 1 or _is_initialised():
        yield
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        group = (Path(folder, "store").as_uri(), processes, device, max(threads // processes, 1))
        others = [
            mp.get_context("spawn").Process(target=_run_other, args=(number, *group, work, args), daemon=True)
            for number in range(1, processes)
        ]
        for other in others:
            other.start()
        try:
            _join(0, *group)
            yield
            for other in others:
                other.join()
        finally:
            torch.set_num_threads(threads)
            for other in others:
                other.kill()
            if _is_initialised():
                dist.destroy_process_group()


def _run_other(number: int, store: str, processes: int, device: str, threads: int, work: Callable, args: tuple) -> None:
    _join(number, store, processes, device, threads)
    work(*args)
    dist.destroy_process_group()


def _join(number: int, store: str, processes: int, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store, rank=number, world_size=processes)
