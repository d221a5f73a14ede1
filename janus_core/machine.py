"""What this machine is: its software, its devices, and the dtype that suits each."""

from __future__ import annotations

import platform
import re
from importlib import metadata
from pathlib import Path

import psutil
import torch

from .model.cpu_ops import cpu_compute_dtype

LIBRARIES = ("torch", "triton", "triton-windows", "safetensors", "tokenizers", "huggingface-hub", "numpy")
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"  # of a checkout; an installed package has none


def best_device() -> str:
    """The fastest kind of device there is."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def fastest_dtype(device: torch.device) -> torch.dtype:
    """The smallest dtype that the device is fast in."""
    if device.type == "cpu":
        return cpu_compute_dtype()
    if device.type == "mps":
        return torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float16
    if device.type != "cuda":
        return torch.float32
    generation = torch.cuda.get_device_capability(device)[0]
    return torch.bfloat16 if generation >= 8 else torch.float16 if generation == 7 else torch.float32


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device now."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def versions() -> dict[str, str | None]:
    """Of this pack, Python, the system, LIBRARIES, and what PyTorch is built for. None for what is not there."""
    installed = {
        str(found.metadata["Name"]).lower().replace("_", "-"): found.version for found in metadata.distributions()
    }
    pack = re.search(r'^version = "(.+)"', PYPROJECT.read_text("utf-8"), re.MULTILINE) if PYPROJECT.exists() else None
    found = {
        "janus-nodes": pack[1] if pack else installed.get("janus-nodes"),
        "Python": platform.python_version(),
        "system": platform.platform(),
        **{name: installed.get(name) for name in LIBRARIES},
        "CUDA": torch.version.cuda,
        "HIP": torch.version.hip,
    }
    return found


def devices() -> dict[str, str | float]:
    """Each device's name and memory, and the system's."""
    ram, capability = psutil.virtual_memory(), torch.backends.cpu.get_cpu_capability()
    found: dict[str, str | float] = {
        "cpu": f"{platform.machine()}, {capability}, {torch.get_num_threads()} threads",
        "RAM, GB": ram.total / 1e9,
        "RAM free, GB": ram.available / 1e9,
    }
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        found |= {f"cuda:{i}": torch.cuda.get_device_name(i), f"cuda:{i}, GB": total / 1e9}
        found[f"cuda:{i} free, GB"] = free / 1e9
    if torch.backends.mps.is_available():
        found["mps, GB"] = torch.mps.recommended_max_memory() / 1e9
    return found
