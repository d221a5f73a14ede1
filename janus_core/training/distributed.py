"""A stage on several processes: each takes its share of every step's samples, and their gradients are summed."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist
from torch import multiprocessing as mp


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number; 0 is the one that reports and saves, and the only one there is outside `joined`."""
    return dist.get_rank() if _together() else 0


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _together() else 1


def sum_over_processes(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, the same bits in each of them."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


@contextmanager
def joined(processes: int, device: str, work: Callable[..., None], *args: object) -> Iterator[None]:
    """While this lasts, this process trains together with `processes - 1` others, started here to run `work(*args)`.

    On a CPU they share out the threads, on CUDA each takes a GPU of its own. Within one of the others, and for one
    process, this does nothing.
    """
    if processes == 1 or _together():
        yield
        return
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder, "meeting").as_uri(), processes, device, max(threads // processes, 1))
        others = [
            mp.get_context("spawn").Process(target=_other, args=(number, *meeting, work, args), daemon=True)
            for number in range(1, processes)
        ]
        for other in others:
            other.start()
        try:
            _meet(0, *meeting)
            yield
            for other in others:
                other.join()
        finally:
            torch.set_num_threads(threads)
            for other in others:
                other.kill()
            if _together():
                dist.destroy_process_group()


def _other(number: int, address: str, processes: int, device: str, threads: int, work: Callable, args: tuple) -> None:
    _meet(number, address, processes, device, threads)
    work(*args)
    dist.destroy_process_group()


def _meet(number: int, address: str, processes: int, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", address, rank=number, world_size=processes)
