"""The memory of live tensors, without the allocator's cache and the rest of the process."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts every storage that is made inside the `with` block; `peak` is the most bytes alive at once.

    Tensors in `known` are not counted."""

    def __init__(self, known: list[torch.Tensor]):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if (
                isinstance(tensor, torch.Tensor) and tensor.is_mkldnn
            ):  # gives no access to its storage, and has no views
                self._follow(id(tensor), tensor, tensor.numel() * tensor.itemsize)
            elif isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known | self.live.keys():
                    self._follow(storage._cdata, storage, storage.nbytes())
        return out

    def _follow(self, key: int, holder: object, size: int) -> None:
        self.live[key] = size
        weakref.finalize(holder, self.live.pop, key, None)
        self.peak = max(self.peak, sum(self.live.values()))
