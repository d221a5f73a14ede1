"""What a user types for `dtype`: the type weights are kept in, and the type they are computed in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .errors import InputError

FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
EIGHT_BIT = {"fp8_e4m3fn": torch.float8_e4m3fn, "int8": torch.int8}
NAMES = (*FLOATS, *EIGHT_BIT)


@dataclass(frozen=True)
class Precision:
    """`compute` is the type of the arithmetic and of sensitive weights, `small` that of the big Linear layers, if any."""

    compute: torch.dtype
    eight_bit: torch.dtype | None = None

    @property
    def name(self) -> str:
        """What a user types for it, one of NAMES."""
        kind = self.eight_bit or self.compute
        return next((name for name, known in (FLOATS | EIGHT_BIT).items() if known == kind), str(kind))

    @property
    def vq(self) -> torch.dtype:
        """The VQ tokenizer's type: float32 under float16, where its activations overflow."""
        return torch.float32 if self.compute == torch.float16 else self.compute

    def check(self, device: torch.device | str) -> None:
        """Raise InputError where there is no such device, or it cannot hold such weights."""
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
        """Read a torch type or one of NAMES. Small ones are computed in `compute`, bfloat16 unless it says otherwise.

        Raises InputError for any other name, and for `compute` beside a type that says it itself.
        """
        if isinstance(dtype, Precision):
            return dtype
        kind = (FLOATS | EIGHT_BIT).get(dtype) if isinstance(dtype, str) else dtype
        if kind is None:
            raise InputError(f"There is no dtype {dtype!r}: choose one of {', '.join(NAMES)}.")
        if kind in EIGHT_BIT.values():
            return cls(compute or torch.bfloat16, kind)
        if not kind.is_floating_point or kind.itemsize < 2:
            raise InputError(f"Janus cannot be computed in {kind}: choose one of {', '.join(NAMES)}.")
        if compute not in (None, kind):
            raise InputError(f"Weights in {kind} are computed in it, not in {compute}: leave the second out.")
        return cls(kind)
