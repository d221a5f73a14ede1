"""Lists of work: a folder of pictures, or a .txt, .jsonl or .parquet file with one item a line or row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import InputError, shown
from ..generation.sampling import MAX_SEED

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
LISTS = (".txt", ".jsonl", ".parquet")
Failed = Callable[[str, InputError], object]  # an item's key, and why it cannot be done


@dataclass(frozen=True, eq=False)
class Item:
    """One item of a list. `text` is its question or prompt, `picture` a file or the content of one.

    `key` names it among the others: what is made of it is found by its key.
    """

    key: str
    text: str
    picture: Path | bytes | None = None
    seed: int = 0


def picture_files(folder: Path) -> list[str]:
    """The pictures in a folder and all below it, as sorted paths from there. Hidden ones are left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if name.lower().endswith(PICTURES) and not name.startswith(".")]
        found += [Path(place, name).relative_to(folder).as_posix() for name in names]
    return sorted(found)


def count_items(source: Path) -> int:
    """How many items a list has, bad ones included. Raises InputError if it is no list that can be read."""
    if source.is_dir():
        return len(picture_files(source))
    if source.suffix.lower() == ".parquet":
        return _parquet_file(source).metadata.num_rows
    return sum(1 for _ in _rows(source, ""))


def picture_items(source: Path, *, question: str, seed: int, failed: Failed) -> Iterator[Item]:
    """The pictures of a folder or list, in order. Item i has seed + i and asks `question`, unless its row has its own.

    A row has `image`, which is a path from the list's folder, in Parquet also the content; and if it likes `question`,
    `key` and `seed`. The key is otherwise the path. Raises InputError if it is no list that can be read.
    """
    if source.is_dir():
        for i, name in enumerate(picture_files(source)):
            yield Item(name, question, source / name, (seed + i) & MAX_SEED)
        return

    def item(number: int, row: dict[str, Any]) -> Item:
        image = row.get("image")
        if isinstance(image, dict):  # as the datasets library stores pictures
            image = image.get("bytes") or image.get("path")
        if not (isinstance(image, str | bytes) and image):
            raise InputError("It has no image: give a path as image.")
        named = str(number) if isinstance(image, bytes) else _relative(image, source.parent)
        picture = image if isinstance(image, bytes) else source.parent / image
        return Item(_key(row, named), _text(row, "question", question), picture, _seed(row, seed + number - 1))

    yield from _items(source, "image", item, failed)


def prompt_items(source: Path, *, seed: int, count: int = 1, failed: Failed) -> Iterator[Item]:
    """The pictures to draw of a list of prompts, `count` of each, in order; picture i has seed + i.

    A row has `prompt`, and if it likes `key` and `seed`. The key is otherwise the line's number, from 1; with several
    pictures, _0, _1, ... follow it. Raises InputError if it is no list that can be read.
    """

    def item(number: int, row: dict[str, Any]) -> Item:
        text = _text(row, "prompt", None)
        return Item(_key(row, f"{number:06}"), text, None, _seed(row, seed + (number - 1) * count))

    if source.is_dir():
        raise InputError(f"{source} is a folder: give a .txt, .jsonl or .parquet file with the prompts.")
    for one in _items(source, "prompt", item, failed):
        for i in range(count):
            key = one.key if count == 1 else f"{one.key}_{i}"
            yield Item(key, one.text, None, (one.seed + i) & MAX_SEED)


def parquet() -> ModuleType:
    """The module pyarrow.parquet. Raises InputError where pyarrow is not installed."""
    try:
        from pyarrow import parquet as module
    except ImportError as error:
        raise InputError("Parquet files need the library pyarrow: install it, or use .jsonl.") from error
    return module


def _items(source: Path, field: str, make: Callable[[int, dict[str, Any]], Item], failed: Failed) -> Iterator[Item]:
    """The items that `make(number from 1, row)` makes of the rows; a key that comes twice fails the second time."""
    seen: set[str] = set()
    for number, row in _rows(source, field):
        try:
            if isinstance(row, InputError):
                raise row
            one = make(number, row)
            if one.key in seen:
                raise InputError(f"The key {shown(one.key)} was there already: give each item its own.")
        except InputError as error:
            key = row.get("key") if isinstance(row, dict) else None
            failed(str(number) if key is None else shown(key), error)
        else:
            seen.add(one.key)
            yield one


def _rows(source: Path, field: str) -> Iterator[tuple[int, dict[str, Any] | InputError]]:
    """Each row's number, from 1, and fields. The lines of a .txt are `field`; empty lines count, and are left out."""
    suffix = source.suffix.lower()
    if suffix not in LISTS:
        raise InputError(f"{source} is no list: give a folder, or a file that ends in {', '.join(LISTS)}.")
    try:
        if suffix == ".parquet":
            number = 0
            for batch in _parquet_file(source).iter_batches(256):
                for row in batch.to_pylist():
                    yield (number := number + 1), row
            return
        with source.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, {field: line.strip()} if suffix == ".txt" else _object(line, number)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{source} cannot be read as a list ({error}): give a file of UTF-8 text.") from error


def _parquet_file(source: Path) -> Any:
    reader = parquet()
    try:
        return reader.ParquetFile(source)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} cannot be read as a Parquet file ({shown(error)}): give another.") from error


def _object(line: str, number: int) -> dict[str, Any] | InputError:
    try:
        row = json.loads(line)
    except (RecursionError, ValueError) as error:
        return InputError(f"Line {number} is not JSON ({shown(error)}).")
    return row if isinstance(row, dict) else InputError(f"Line {number} is not a JSON object.")


def _relative(image: str, folder: Path) -> str:
    """The key of a picture: its path from the list's folder, or its name if it is elsewhere."""
    path = Path(image)
    if not path.is_absolute():
        return path.as_posix()
    return path.relative_to(folder.absolute()).as_posix() if path.is_relative_to(folder.absolute()) else path.name


def _key(row: dict[str, Any], default: str) -> str:
    key = row.get("key")
    if key is None:
        return default
    if not isinstance(key, str | int) or isinstance(key, bool) or not str(key).strip():
        raise InputError(f"Its key is {shown(repr(key))}: give a text or a whole number.")
    return str(key)


def _text(row: dict[str, Any], field: str, default: str | None) -> str:
    text = row.get(field)
    if text is None and default is not None:
        return default
    if not isinstance(text, str):
        raise InputError(f"It has no {field}: give a text as {field}.")
    return text


def _seed(row: dict[str, Any], default: int) -> int:
    seed = row.get("seed")
    if seed is None:
        return default & MAX_SEED
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise InputError(f"Its seed is {shown(repr(seed))}: give a whole number from 0 to {MAX_SEED}.")
    return seed
