"""How many answers or pictures to make at once, from what memory is free."""

from collections.abc import Callable
from typing import Any

import torch

from ..generation.cache import whole_blocks
from ..generation.cpu_kernels import copied_bytes
from ..machine import free_memory
from ..memory import ANSWERING, QUESTION, Need, answering_bytes, cache_bytes, drawing_need
from ..pipeline import Janus

# More rows gain little: a CPU computes what it reads in one batch of this size, a GPU nearly so.
MOST = {"cpu": 8, "other": 64}


def most_at_once(device: torch.device) -> int:
    """The largest batch that is worth its memory on a device."""
    return MOST.get(device.type, MOST["other"])


def fitting(need: Callable[[int], int], device: torch.device, *, memory: int) -> int:
    """The largest power of two, up to `most_at_once`, for which `need(batch)` bytes are in `memory`; at least 1."""
    batch = most_at_once(device)
    while batch > 1 and need(batch) > memory:
        batch //= 2
    return batch


def answering_rows_need(janus: Janus, rows: int, *, max_new_tokens: int, prompt: int = QUESTION) -> Need:
    """What `answer_all` needs on the device for `rows` prompts of `prompt` tokens at once, each with a picture."""
    config, precision = janus.model.config, janus.precision
    work = answering_bytes(config, precision, rows=rows, prompt=prompt, new=max_new_tokens, pictures=rows)
    # Prompts are read into a cache of their own, and copied.
    work += cache_bytes(config.llama, precision.compute, rows=rows, length=whole_blocks(prompt))
    return Need(ANSWERING, work + copied_bytes([janus.model.language_model], rows=rows, device=janus.device))


def fitting_rows(janus: Janus, *, max_new_tokens: int) -> int:
    """How many answers about a picture to give at once."""
    need = lambda rows: answering_rows_need(janus, rows, max_new_tokens=max_new_tokens).bytes
    return fitting(need, janus.device, memory=free_memory(janus.device))


def fitting_pictures(janus: Janus, **settings: Any) -> int:
    """How many pictures of different prompts to draw at once, with these settings of `Janus.generate`."""
    drawing = lambda count: janus.drawing_of("a " * 64, count, **settings)
    need = lambda count: (
        drawing_need(janus.model, drawing(count), precision=janus.precision, execution=janus.execution).bytes
    )
    return fitting(need, janus.device, memory=free_memory(janus.device))
