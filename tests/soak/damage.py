"""Damaged copies of checkpoints and LoRAs, each made by random numbers: what disks, downloads and strangers do to files."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from checkpoint_files import shard
from safetensors.torch import load_file, save_file

from janus_core.convert import convert

DATA = Path(__file__).parents[1] / "data"
LORA = "lora.safetensors"
LORA_LAYERS = {"language_model.model.layers.1.mlp.up_proj": (176, 64), "gen_head.vision_head": (128, 64)}
DEEP = "deep"  # stands for lists in lists, deeper than a parser may go
ODD_VALUES = (
    *(None, True, False, -1, 0, 1, 2, 3, 0.5, -0.0, 255, 65536, 2**31, 2**32, 2**63, 2**64, 10**400, 1e-300, 1e308),
    *(math.nan, math.inf, -math.inf, "", " ", "x", "0", "nan", "../../x", "x" * 100_000, "\ud800", "\0", "\x1b[2J\n"),
    *([], {}, [[]], [None] * 5, [0, 0, 0], [-1, 2], {"x": {}}, DEEP),
)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
IN_PLACE = (b"", b"\0" * 5000, POINTER, b"<html>404</html>", b"PK\x03\x04", b"\xff\xfe{\0}\0", b"{}", b"[]", b"null")


@dataclass(frozen=True)
class Damaged:
    """A damaged copy: what to open, what was done to it, and whether the model must still be the same."""

    checkpoint: Path
    what: str
    lora: Path | None = None
    harmless: bool = False


def make_originals(folder: Path) -> None:
    """Write a tiny Janus into the folder in each form that a checkpoint can have, and once with a LoRA."""
    tiny = DATA / "tiny_deepseek"
    shutil.copytree(tiny, folder / "deepseek")
    shutil.copytree(DATA / "tiny_transformers", folder / "transformers")
    state = load_file(tiny / "model.safetensors")
    for name in ("pickle", "old pickle", "shards", "pickled shards"):
        shutil.copytree(tiny, folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(state, folder / "pickle" / "pytorch_model.bin")
    torch.save(state, folder / "old pickle" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    shard(folder / "shards", state)
    shard(folder / "pickled shards", state, "bin")
    for dtype in ("fp32", "int8", "fp8_e4m3fn"):
        (folder / dtype).mkdir()
        convert(tiny, folder / dtype / "model.safetensors", dtype=dtype)
    lora, noise = folder / "lora", torch.Generator().manual_seed(0)
    shutil.copytree(tiny, lora)
    factors = {}
    for layer, (out, width) in LORA_LAYERS.items():
        factors[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(4, width, generator=noise)
        factors[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(out, 4, generator=noise)
    save_file(factors, lora / LORA)
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))


def damaged_copy(originals: Path, to: Path, draw: Random) -> Damaged:
    """Copy one of the originals to `to` and damage one of its files, or leave it or change it harmlessly."""
    form = draw.choice(sorted(path.name for path in originals.iterdir()))
    shutil.copytree(originals / form, to)
    lora = to / LORA if form == "lora" else None
    loras_own = [LORA, "adapter_config.json"]
    files = sorted(path for path in to.iterdir() if (path.name in loras_own if lora else path.name != "README.md"))
    weights = [path for path in files if path.suffix != ".json"]
    path = draw.choice(weights if draw.random() < 0.5 else files)
    if draw.random() < 0.04:
        return Damaged(to, f"{form}: {_change_nothing_that_counts(path, draw)}", lora, harmless=True)
    kinds: list[Callable[[Path, Random], str]] = [_replace, _bytes, _bytes]
    kinds += {".json": [_json] * 5, ".bin": [_pickle] * 2 + [_zip]}.get(path.suffix, [_header] * 4 + [_numbers] * 2)
    what = draw.choice(kinds)(path, draw)
    return Damaged(to, f"{form}, {path.name}: {what}", lora)


def _change_nothing_that_counts(path: Path, draw: Random) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=draw.randrange(9)))
        return f"{path.name} indented"
    (path.parent / "notes.txt").write_bytes(draw.randbytes(50))
    return "a file beside it"


def _replace(path: Path, draw: Random) -> str:
    """Something else where the file was."""
    path.unlink()
    kind = draw.choice(("nothing", "folder", "pipe", "link to nothing", "link to itself", "other content"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "other content":
        content = draw.choice((*IN_PLACE, draw.randbytes(draw.randrange(3000))))
        path.write_bytes(content)
        return f"is {content[:20]!r}"
    return f"is {kind}"


def _bytes(path: Path, draw: Random) -> str:
    """Wrong, missing or additional bytes: mostly near the file's ends, where they count."""
    content = bytearray(path.read_bytes())
    near = draw.choice((len(content), 200, 3000))
    at = draw.randrange(min(near, len(content)))
    if draw.random() < 0.3:
        at = len(content) - 1 - at
    kind = draw.choice(("wrong", "cut", "removed", "added"))
    if kind == "wrong":
        for _ in range(draw.choice((1, 1, 4, 30))):
            content[max(0, at - draw.randrange(40))] = draw.randrange(256)
    elif kind == "cut":
        del content[at:]
    elif kind == "removed":
        del content[at : at + draw.randrange(1, 50)]
    else:
        content[at:at] = draw.randbytes(draw.randrange(1, 50))
    path.write_bytes(content)
    return f"bytes {kind} at {at}"


def spoil(tree: Any, draw: Random) -> str:
    """Change a value, name or place in a parsed JSON value, in place."""
    holder, where = tree, []
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw.choice(keys)
        where.append(str(key))
        if not isinstance(holder[key], dict | list) or not holder[key] or draw.random() < 0.15:
            break
        holder = holder[key]
    kind = draw.choice(("odd", "odd", "odd", "removed", "larger", "elsewhere", "renamed"))
    if kind == "removed":
        del holder[key]
    elif kind == "larger" and type(holder[key]) in (int, float):
        holder[key] = holder[key] * draw.choice((-1, 2, 7, 0.5, 1000))
    elif kind == "elsewhere":
        holder[key] = copy.deepcopy(draw.choice([holder[other] for other in keys]))
    elif kind == "renamed" and isinstance(holder, dict):
        holder[draw.choice(("x", f"{key}2", str(key).upper(), "\ud800", "x" * 5000))] = holder.pop(key)
    else:
        holder[key] = draw.choice(ODD_VALUES)
    return f"{kind} at {'.'.join(where)[:200]}"


def _dumped(tree: Any) -> bytes:
    return json.dumps(tree).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000).encode()


def _json(path: Path, draw: Random) -> str:
    tree = json.loads(path.read_text(encoding="utf-8"))
    what = [spoil(tree, draw) for _ in range(draw.choice((1, 1, 2)) if len(tree) > 2 else 1)]
    path.write_bytes(_dumped(tree))
    return "; ".join(what)


def _header(path: Path, draw: Random) -> str:
    """A safetensors file with another header, whose length is right most times."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    tree = json.loads(content[8 : 8 + length])
    own = tree.get("__metadata__", {}).get("config.json") and draw.random() < 0.5
    if own:  # a self-contained file: one of its texts
        name = draw.choice([name for name in tree["__metadata__"] if name.endswith(".json")])
        inner = json.loads(tree["__metadata__"][name])
        what = f"its {name}, {spoil(inner, draw)}"
        tree["__metadata__"][name] = _dumped(inner).decode()
    else:
        what = spoil(tree, draw)
    header = _dumped(tree)
    size = len(header) if draw.random() < 0.9 else draw.choice((0, 1, len(header) - 1, 2**31, 2**63, 2**64 - 1))
    path.write_bytes(size.to_bytes(8, "little") + header + content[8 + length :])
    return f"header: {what}"


def _numbers(path: Path, draw: Random) -> str:
    """Other numbers in a stretch of a safetensors file's tensors, or a table of other tensors."""
    if draw.random() < 0.5:
        content = bytearray(path.read_bytes())
        start = 8 + int.from_bytes(content[:8], "little")
        at = draw.randrange(start, len(content)) // 4 * 4
        length = min(draw.choice((4, 64, 4096, 400_000)), len(content) - at)
        four = draw.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"))
        content[at : at + length] = (four * length)[:length]
        path.write_bytes(content)
        return f"{four.hex()} over {length} bytes at {at}"
    state = load_file(path)
    what = _spoil_tensors(state, draw, plain=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return what


def _spoil_tensors(state: dict[str, Any], draw: Random, *, plain: bool) -> str:
    """Change one tensor of a table; `plain` leaves only what a safetensors file can hold."""
    name = draw.choice(sorted(state))
    tensor = state[name]
    changes: dict[str, Callable[[], Any]] = {
        "one row more": lambda: torch.cat([tensor, tensor[:1]]) if tensor.ndim else tensor[None],
        "no numbers": lambda: tensor[:0] if tensor.ndim else torch.zeros(0),
        "one number": lambda: torch.tensor(1.0),
        "flat": lambda: tensor.flatten(),
        "turned": lambda: tensor.transpose(0, -1) if tensor.ndim > 1 else tensor,
        "seven dimensions": lambda: tensor[(None,) * 5],
        "int64": lambda: tensor.long(),
        "bool": lambda: tensor.bool(),
        "float64": lambda: tensor.double(),
        "float8": lambda: tensor.float().to(torch.float8_e5m2),
        "complex": lambda: tensor.float().to(torch.complex64),
        "huge": lambda: (
            torch.full_like(tensor, torch.finfo(tensor.dtype).max) if tensor.is_floating_point() else tensor
        ),
        "NaN": lambda: torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor,
    }
    if not plain:
        changes |= {
            "a number": lambda: 5,
            "a list": lambda: [tensor],
            "a table": lambda: {"weight": tensor},
            "on no device": lambda: tensor.to("meta"),
            "sparse": lambda: tensor.float().to_sparse(),
            "repeated": lambda: torch.zeros(1).expand(2**30),
            "code": lambda: RunsCode(),
            "a layer": lambda: torch.nn.Linear(2, 2),
        }
    kind = draw.choice([*changes, "removed", "renamed"])
    if kind == "removed":
        del state[name]
    elif kind == "renamed":
        state[draw.choice(("x", f"{name}.y", "\n", "", "x" * 5000))] = state.pop(name)
    else:
        state[name] = changes[kind]()
    return f"{name} {kind}"


class RunsCode:
    """Unpickled, it ends the process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (66,)


def _pickle(path: Path, draw: Random) -> str:
    state = dict(torch.load(path, weights_only=True))
    what = _spoil_tensors(state, draw, plain=False)
    whole = draw.choice(({"state_dict": state}, [*state.values()], 7, None)) if draw.random() < 0.1 else state
    torch.save(whole, path, _use_new_zipfile_serialization=draw.random() < 0.7)
    return what if whole is state else f"{what}, and the table inside {type(whole).__name__}"


def _zip(path: Path, draw: Random) -> str:
    """Another entry in the archive, a missing one, or one with wrong bytes; the archive itself is whole."""
    if not zipfile.is_zipfile(path):
        return _bytes(path, draw)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    name = pickled if draw.random() < 0.6 else draw.choice(sorted(entries))
    kind = draw.choice(("wrong bytes", "removed", "cut", "twice", "packed"))
    content = bytearray(entries[name])
    if kind == "wrong bytes":
        for _ in range(draw.choice((1, 3, 20))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        entries[name] = bytes(content)
    elif kind == "cut":
        entries[name] = bytes(content[: draw.randrange(len(content))])
    elif kind == "removed":
        del entries[name]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED if kind == "packed" else zipfile.ZIP_STORED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
        if kind == "twice":
            archive.writestr(f"{name} ", bytes(content))
    path.write_bytes(written.getvalue())
    return f"{name} {kind}"
