"""A model's precision: the dtype of its stored weights and of its arithmetic, from what a user enters as `dtype`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .errors import InputError, shown

FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
EIGHT_BIT = {"fp8_e4m3fn": torch.float8_e4m3fn, "int8": torch.int8}
DTYPES = FLOATS | EIGHT_BIT
NAMES = tuple(DTYPES)
# What the header of a safetensors file calls them.
SAFETENSORS = {
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
}


@dataclass(frozen=True)
class Precision:
    """`compute` is the type of the arithmetic and of sensitive weights, `eight_bit` that of the big Linear layers, if any."""

    compute: torch.dtype
    eight_bit: torch.dtype | None = None

    @property
    def name(self) -> str:
        """What a user enters for it, one of NAMES; torch's own name for a type that has none here."""
        stored = self.eight_bit or self.compute
        return next((name for name, dtype in DTYPES.items() if dtype == stored), str(stored))

    @property
    def vq(self) -> torch.dtype:
        """The VQ tokenizer's type: float32 under float16, where its activations overflow."""
        return torch.float32 if self.compute == torch.float16 else self.compute

    def check(self, device: torch.device | str) -> None:
        """Raise InputError when the device does not exist or cannot hold such weights."""
        if self.eight_bit == torch.float8_e4m3fn and torch.device(device).type == "mps":
            raise InputError("An Apple GPU has no fp8: choose int8, or fp16.")
        try:
            torch.empty(0, device=device)
        except (AssertionError, NotImplementedError, RuntimeError) as error:
            reason = next(iter(str(error).splitlines()), "unknown")
            raise InputError(
                f"The device {device} cannot be used here ({reason}): choose another, such as cpu."
            ) from error

    @classmethod
    def of(cls, dtype: torch.dtype | str | Precision, compute: torch.dtype | None = None) -> Precision:
        """The precision for a torch type or one of NAMES; 8-bit weights compute in `compute`, bfloat16 by default.

        Raises InputError for any other dtype, and for a `compute` that differs from a floating-point dtype.
        """
        if isinstance(dtype, Precision):
            return dtype
        stored = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if stored is None:
            raise InputError(f"There is no dtype {shown(repr(dtype))}: choose one of {', '.join(NAMES)}.")
        if stored in EIGHT_BIT.values():
            return cls(compute or torch.bfloat16, stored)
        if not stored.is_floating_point or stored.itemsize < 2:
            raise InputError(f"Janus cannot be computed in {stored}: choose one of {', '.join(NAMES)}.")
        if compute not in (None, stored):
            raise InputError(f"Weights in {stored} are computed in it, not in {compute}: leave `compute` out.")
        return cls(stored)
