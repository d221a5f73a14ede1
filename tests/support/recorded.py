"""Drawings and answers for tests of recorded steps, and CUDA graphs without CUDA: a step's ops, written down and run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from absent_device import waits
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import janus_core
from janus_core.batch import drawing as list_drawing
from janus_core.generation import cache, context, continuous, image, jacobi, recorder, text
from janus_core.generation.codes import Drawing
from janus_core.generation.execution import Execution
from janus_core.generation.sampling import Sampling

CPU = Execution(torch.device("cpu"))


def use_device_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache that other devices than CPUs use."""
    make = lambda config, rows, capacity, execution, dtype: cache.DeviceCache(config, rows, capacity, "cpu", dtype)
    monkeypatch.setattr(context, "new_cache", make)


def drawing(janus: janus_core.Janus, prompt: str, cfg_weight: float = 5.0, sampling: Sampling | None = None) -> Drawing:
    steps = janus.model.config.grid[0] * janus.model.config.grid[1]
    ids, pad = janus.processor.drawing_prompt(prompt), janus.processor.pad
    sampling = sampling or Sampling()
    return Drawing(prompt=ids, pad=pad, steps=steps, count=5, seed=3, cfg_weight=cfg_weight, sampling=sampling)


def say(janus: janus_core.Janus, sampling: Sampling, execution: Execution = CPU) -> list[list[int]]:
    """Answers of a batch with pads in it, long enough for several buckets."""
    processor = janus.processor
    prompts = [processor.question_prompt(question, 0) for question in ("is it red? " * 5, "how many are there?")]
    special = {"image_id": processor.image, "pad": processor.pad}
    start = text.embed_prompts(janus.model, prompts, **special, features=None, device=janus.device)
    settings = {"eos": -1, "max_new_tokens": 40, "seed": 5, "sampling": sampling}
    return text.answer_ids(janus.model, *start, execution, **settings)


class Tape(TorchDispatchMode):
    """The ops that a step ran, on the very tensors. As a capture runs nothing, what they wrote is undone.

    `replay` runs them again, and no Python of the step. A graph's own memory holds nothing outside a replay: here it is
    filled with what would be noticed.
    """

    def __init__(self, step: Callable[[], None]):
        super().__init__()
        self.ops: list[tuple[Any, Any, Any, Any]] = []
        self.outside: dict[int, tuple[Tensor, Tensor | None]] = {}  # storages from before, and what written ones held
        self.inside: dict[int, Tensor] = {}  # storages of the graph's own
        with self:
            step()
        for tensor, before in self.outside.values():
            if before is not None:
                tensor.untyped_storage().copy_(before.untyped_storage())
        for tensor in self.inside.values():
            _whole(tensor).fill_(
                torch.nan if tensor.is_floating_point() else True if tensor.dtype == torch.bool else -1
            )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if waits(func, read):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        written = [given.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
        for tensor in read:
            if (key := _storage(tensor)) not in self.inside and self.outside.get(key, (None, None))[1] is None:
                changes = any(tensor is x for x in tree_leaves(written))
                self.outside[key] = (tensor, _whole(tensor).clone() if changes else None)
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _storage(tensor) not in self.outside:
                self.inside.setdefault(_storage(tensor), tensor)
        self.ops.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        made: dict[int, Any] = {}
        fresh = lambda x: made.get(id(x), x)
        for func, args, kwargs, out in self.ops:
            again = func(*tree_map(fresh, args), **tree_map(fresh, kwargs))
            made |= {
                id(x): y for x, y in zip(tree_leaves(out), tree_leaves(again), strict=True) if isinstance(x, Tensor)
            }


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _whole(tensor: Tensor) -> Tensor:
    """All numbers of a tensor's storage."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


class Stream:
    def synchronize(self) -> None: ...


@contextmanager
def _stream(device: torch.device, enabled: bool) -> Iterator[Stream]:
    yield Stream()


def record_on_tapes(monkeypatch: pytest.MonkeyPatch, bucket: int) -> list[Tape]:
    """Steps run as on CUDA, with tapes as graphs. The list grows by one with each capture."""
    tapes: list[Tape] = []

    def capture(step: Callable[[], None], pool: object) -> Tape:
        tapes.append(Tape(step))
        return tapes[-1]

    use_device_cache(monkeypatch)
    for module in (continuous, image, jacobi, list_drawing, text):
        monkeypatch.setattr(module, "side_stream", _stream)
    monkeypatch.setattr(recorder, "_capture", capture)
    monkeypatch.setattr(recorder, "BUCKET", bucket)
    monkeypatch.setattr(recorder.GraphedStep, "possible", True)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    return tapes
