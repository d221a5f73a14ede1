"""A device that this machine lacks: tensors that only claim to be on it, and a log of what a real one would be asked to do.

FakeTensorMode computes shapes, types and devices, and no numbers. Give devices an index ("cuda:0"): without one, PyTorch
asks the driver for the current device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import arg_tree_leaves, tree_leaves

PACK = Path(__file__).resolve().parents[2]
ROOMS = (str(PACK / "janus_core"), str(PACK / "nodes"))
aten = torch.ops.aten
# Ops that need a number of the device before the host can go on. Those of the first line return it.
NUMBERS = {"_local_scalar_dense", "item", "is_nonzero"}
WAITS = NUMBERS | {"nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}
# Ops that give a view or memory, and run nothing on a device. PyTorch's own list of views lacks these.
FREE = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}


class PresentDevice(TorchFunctionMode):
    """What PyTorch's C++ does only in a build for the device.

    1. Indexing asks the build for a guard of the device. Here it is made of ops that need none.
    2. On CUDA, attention and RMSNorm are one kernel each. Elsewhere they fall apart into many ops.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if replacement := REPLACED.get(func):
            return replacement(*args, **(kwargs or {}))
        if func in FUSED and (replacement := FUSED[func].get(args[0].device.type)):
            return replacement(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _view(x: Tensor, index: Any) -> Tensor | None:
    """x[index] by views; None where a tensor is among the indices."""
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, Tensor) for i in index):
        return None
    dim = 0
    for at, i in enumerate(index):
        if i is Ellipsis:
            dim = x.dim() - sum(j is not None for j in index[at + 1 :])
        elif i is None:
            x, dim = x.unsqueeze(dim), dim + 1
        elif isinstance(i, slice):
            start, stop, step = i.indices(x.shape[dim])
            x, dim = aten.slice.Tensor(x, dim, start, max(start, stop), step), dim + 1
        else:
            x = aten.select.int(x, dim, int(i))
    return x


def _get(x: Tensor, index: Any) -> Tensor:
    found = _view(x, index)
    return aten.index.Tensor(x, [index]) if found is None else found


def _set(x: Tensor, index: Any, value: Any) -> None:
    place = _view(x, index)
    if place is None:
        aten.index_put_(x, [index], value)
    elif isinstance(value, Tensor):
        aten.copy_(place, value)
    else:
        aten.fill_.Scalar(place, value)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
    """A mask in the one form that PyTorch's front end passes on as it is: numbers, whose rows are aligned in memory."""
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]
    if attn_mask.dtype != q.dtype or any(stride % 8 for stride in attn_mask.stride()[:-1]):
        raise ValueError("in each layer, attention would first make a mask of its own from this one")
    mask = attn_mask.expand(*q.shape[:3], k.shape[2])
    return aten._scaled_dot_product_efficient_attention(q, k, v, mask, False)[0]


REPLACED = {
    Tensor.__getitem__: _get,
    Tensor.__setitem__: _set,
    Tensor.__invert__: aten.bitwise_not,
    Tensor.copy_: aten.copy_,
}
FUSED: dict[Any, dict[str, Any]] = {
    F.scaled_dot_product_attention: {
        "cuda": _attention,
        "mps": lambda q, k, v, **how: aten._scaled_dot_product_attention_math_for_mps(q, k, v, **how)[0],
    },
    F.rms_norm: {"cuda": lambda x, *_, **__: x.clone()},  # one kernel that writes as much
}


def waits(func: Any, read: list[Tensor]) -> bool:
    """Whether the host waits for the device in this op, which reads these tensors."""
    name = func._schema.name.partition("::")[2]
    # A mask as index is turned into places, and how many is only known on the device.
    masks = name.startswith(("index", "_index")) and any(x.dtype == torch.bool for x in read[1:])
    return name in WAITS or masks


class OpLog(TorchDispatchMode):
    """What the ops of a `with` block ask of `device`. Where the host waits for a number, it gets 1: finite, and True."""

    def __init__(self, device: torch.device | str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.launches = 0  # kernels
        self.faults: list[str] = []  # what must not be in a step, with the line of the pack that does it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        out = 1 if name in NUMBERS else func(*args, **(kwargs or {}))
        if name == "device":
            return out
        read = [x for x in arg_tree_leaves(*args, **(kwargs or {})) if isinstance(x, Tensor)]
        tensors = read + [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.launches += not (func.is_view or name in FREE)
        if waits(func, read):
            self.faults.append(f"{_line()} waits for the device ({name})")
        if elsewhere := {x.device for x in tensors} - {self.device}:
            self.faults.append(f"{_line()} uses {', '.join(map(str, elsewhere))} ({name})")
        if self.device.type == "mps" and any(x.dtype == torch.float64 for x in tensors):
            self.faults.append(f"{_line()} is in float64, which an Apple GPU lacks ({name})")
        return out


def _line() -> str:
    frame = sys._getframe(2)
    while frame.f_back and not frame.f_code.co_filename.startswith(ROOMS):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


@contextmanager
def absent_device(mode: FakeTensorMode | None = None) -> Iterator[None]:
    """Inside the block, tensors may be made on any device, and hold no numbers. Those of another block need its `mode`."""
    with mode or FakeTensorMode(), PresentDevice(), torch.no_grad():
        yield


def claim(model: torch.nn.Module, device_of: Callable[[str], str]) -> FakeTensorMode:
    """Fill a model of the meta device with weights that claim to be on `device_of(key)`; returns their mode."""
    empty = model.state_dict()
    with FakeTensorMode() as mode:
        state = {k: torch.empty(w.shape, dtype=w.dtype, device=device_of(k)) for k, w in empty.items()}
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False).eval()
    return mode
