"""Without a GPU, the kernels compile for the cards people have, at Janus-Pro's sizes, and keep to their registers."""

import re
import subprocess
from pathlib import Path

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from janus_core.generation import triton_kernels as kernels
from janus_core.generation import triton_programs as programs

STRIDES = dict.fromkeys(
    ("k_row", "k_head", "k_slot", "k_dim", "v_row", "v_head", "v_slot", "v_dim", "heads", "tokens"), "i32"
)


def signatures(kind: str, exact: tl.dtype) -> dict:
    """Of each kernel the types of its arguments, and its constants."""
    x, wide, long = f"*{kind}", f"*{exact.name}", "*i64"
    return {
        programs.add_norm_kernel: (
            {"stream": x, "x": x, "weight": x, "out": x, "width": "i32"},
            {"EPS": 1e-6, "ADDS": True, "EXACT": exact, "BLOCK": 4096},
        ),
        programs.silu_mul_kernel: (
            {"gate_up": x, "out": x, "inner": "i32"},
            {"EXACT": exact, "BLOCK": kernels.INNER},
        ),
        programs.int8_linear_kernel: (
            {"x": x, "weight": "*i8", "scale": "*fp32", "out": x} | {"rows": "i32", "channels": "i32"},
            {"WIDTH": 11008, "EXACT": exact, "ROWS": 2, "CHANNELS": kernels.PRODUCTS // 2, "BLOCK": kernels.INPUTS},
        ),
        programs.rotate_and_write_kernel: (
            {"qkv": x, "cos": x, "sin": x, "slots": long, "q": x, "keys": x, "values": x} | STRIDES,
            {"EXACT": exact, "HALF": 64},
        ),
        programs.attend_kernel: (
            {"q": x, "slots": long, "keys": x, "values": x, "parts": wide} | STRIDES,
            {"SCALE": 128**-0.5, "EXACT": exact, "SIZE": 128, "SLOTS": kernels.SPLIT},
        ),
        programs.join_kernel: ({"parts": wide, "out": x, "splits": "i32"}, {"SIZE": 128, "BLOCK": 16}),
        programs.draw_kernel: (
            {"logits": x, "keys": long, "position": long, "out": long}
            | dict.fromkeys(("pictures", "row_stride", "token_stride"), "i32")
            | dict.fromkeys(("weight", "least", "scale"), "fp32"),
            {"GUIDED": True, "MIN_P": True, "EXACT": exact}
            | {"COUNT": 16384, "GOLDEN": kernels.GOLDEN32, "BLOCK": kernels.CODES},
        ),
    }


# As the kernels are launched, where that is not Triton's default.
WARPS = {programs.add_norm_kernel: 8, programs.rotate_and_write_kernel: 1, programs.draw_kernel: 16}
UNALIGNED = {
    "splits",
    "k_dim",
    "v_dim",
    "rows",
    "pictures",
}  # all other integers are multiples of 16, which Triton makes use of
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers a thread, and bytes of memory: a thread's stack and local memory, a program's shared memory."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    command = [CUOBJDUMP, "--dump-resource-usage", file]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 (Triton's own)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", listing)}


@pytest.mark.parametrize("capability", [75, 80, 86, 90, 120])
@pytest.mark.parametrize(("kind", "exact"), [("fp16", tl.float32), ("bf16", tl.float32), ("fp64", tl.float64)])
def test_kernels_compile(capability: int, kind: str, exact: tl.dtype, tmp_path: Path) -> None:
    for kernel, (types, constants) in signatures(kind, exact).items():
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(types) if name not in UNALIGNED}
        source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants, aligned)
        target, options = GPUTarget("cuda", capability, 32), {"num_warps": WARPS.get(kernel, 4)}
        binary = triton.compile(source, target=target, options=options).asm
        assert binary["cubin"][:4] == b"\x7fELF"
        if kernel is programs.draw_kernel:
            assert "lg2.approx" not in binary["ptx"]  # too coarse for the noise that wins
        used = resources(binary["cubin"], tmp_path)
        print(f"sm_{capability} {kind} {kernel.__name__}: {used}")
        if kind != "fp64":  # which the tests use alone, and whose attention does spill
            assert used["STACK"] == used["LOCAL"] == 0, "registers are spilled to memory"
