"""A stage on several processes that torchrun has started: each takes a share of every step's samples."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist

WAIT = timedelta(days=7)  # for process 0, which trains encoders alone; torchrun itself ends the others when one ends


def rank() -> int:
    """This process's number. Process 0 reports and saves; without torchrun it is the only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def process_count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def wait_for_all() -> None:
    """Return when every process has come here."""
    if process_count() > 1:
        dist.barrier()


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the other processes, if torchrun started this one. Yields this process's device: on CUDA a GPU of its own."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=WAIT)
    try:
        yield device
    finally:
        dist.destroy_process_group()
