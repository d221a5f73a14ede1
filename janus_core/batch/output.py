"""Where the work on a list goes, item by item, so that a stopped run resumes.

Each file is complete when it has its name. A table is kept as lines in NAME.part until the list is done: a process that is
killed there loses what it had in hand, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from glob import escape
from io import FileIO
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO

from typing_extensions import Self

from ..errors import InputError, shown
from ..weights.writing import PART, HeldError, locked, replacing
from .items import Item, parquet

EXISTING = ("skip", "overwrite", "append")
TABLES = (".jsonl", ".parquet")
OTHER_FILES = (".csv", ".json", ".tsv", ".txt", ".png", ".jpg")
COLUMNS = ("key", "question", "answer")
ESCAPED = "backslashreplace"  # half a character, as a file's name may have, becomes JSON's escape of it
Row = dict[str, str]


class Files:
    """One file for each item in a folder, named by the item's key.

    `suffix` replaces the key's own, as in a.jpg -> a.txt, or follows it if `keep` is true.
    """

    def __init__(self, folder: Path, suffix: str, *, keep: bool = False, existing: str = "skip"):
        if existing not in EXISTING:
            raise InputError(f"There is no way {shown(repr(existing))} to treat files: choose {', '.join(EXISTING)}.")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: give a folder.")
        self.folder, self.suffix, self.keep, self.existing = folder, suffix, keep, existing
        self._keys: dict[Path, str] = {}

    def path(self, item: Item) -> Path:
        """The item's file. Raises InputError for a key that leads out of the folder, and for one whose file is another's."""
        name = PurePosixPath(item.key)
        if name.is_absolute() or ".." in name.parts or not name.name or "\0" in item.key or "\\" in item.key:
            raise InputError(f"The key {shown(repr(item.key))} is no name for a file: give one without .. and \\.")
        path = self.folder / (f"{name}{self.suffix}" if self.keep else name.with_suffix(self.suffix))
        other = self._keys.setdefault(path, item.key)
        if other != item.key:
            raise InputError(f"{path.name} is already for {shown(other)}: give one of the two another name.")
        return path

    def has(self, item: Item) -> bool:
        """Whether the item's file is there and to be left as it is. Raises InputError as `path` does."""
        return self.path(item).exists() and self.existing == "skip"

    def write(self, item: Item, save: Callable[[Path], object]) -> Path:
        """Write the item's file by `save(a path to write)`. Raises InputError if the disk refuses."""
        path = self.path(item)
        try:
            if not path.parent.resolve().is_relative_to(self.folder.resolve()):
                raise InputError(f"{path.parent} is a link that leads out of {self.folder}: choose another folder.")
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path.parent} cannot be made ({error}): choose another folder.") from error
        with replacing(path) as part:
            save(part)
        return path

    def write_text(self, item: Item, text: str) -> Path:
        """Write a text, as UTF-8 with a newline at its end, after what is there if `existing` is "append"."""
        path = self.path(item)
        if self.existing == "append" and path.exists():
            try:
                text = f"{path.read_text(encoding='utf-8').rstrip()}\n{text}"
            except (OSError, UnicodeError) as error:
                raise InputError(f"Nothing can be added to {path} ({error}): overwrite or skip it.") from error
        return self.write(item, lambda part: part.write_text(f"{text}\n", encoding="utf-8", newline="\n"))


class Table:
    """Rows of COLUMNS by key in a .jsonl or .parquet file, in the order of the list. Use it in a `with` block.

    Rows that are there stay, also those of other lists. With `shard`, each file has at most so many rows, and they are
    NAME-00001-of-00003.jsonl and so on. Raises InputError while another program writes the same table.
    """

    def __init__(self, path: Path, *, shard: int | None = None):
        if shard is not None and shard < 1:
            raise InputError(f"--shard is {shard}: give at least 1 row for a file, or leave it out.")
        self.path, self.part, self.shard = path, path.with_name(f"{path.name}{PART}"), shard
        self._order: dict[str, None] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if self.path.suffix.lower() == ".parquet":
            parquet()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: FileIO = self._stack.enter_context(locked(self.part))
            with ExitStack() as unless_read:
                unless_read.callback(self._stack.close)
                self._written = {row["key"]: offset for offset, row in self._lines()}
                self._final = {row["key"] for row in self._finished()}
                unless_read.pop_all()
        except HeldError as error:
            raise InputError(f"{self.path} is being written by another program: wait until it is done.") from error
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error}): choose another place.") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._stack:
            if not self._written and self.part.stat().st_size == 0:
                with suppress(OSError):
                    self.part.unlink()
            elif kind is None:
                self._finish()

    def has(self, item: Item) -> bool:
        """Whether the item's row is there. To be asked about each item, in the list's order."""
        self._order[item.key] = None
        return item.key in self._written or item.key in self._final

    def write(self, row: Row) -> None:
        """Keep a row, whose key is new. Raises InputError if the disk refuses."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode(errors=ESCAPED)
        try:
            offset = self._file.seek(0, 2)
            if self._file.write(line) != len(line):
                self._file.truncate(offset)
                raise OSError("the disk is full")
        except OSError as error:
            raise InputError(
                f"{self.part} could not be written ({error}): free some space, and run it again."
            ) from error
        self._written[row["key"]] = offset

    def _lines(self) -> Iterator[tuple[int, Row]]:
        """The rows in the part file and where each begins. A last line without its end is cut off."""
        self._file.seek(0)
        offset = 0
        with open(self.part, "rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    self._file.truncate(offset)
                    return
                yield offset, _row(_parsed(line), self.part)
                offset += len(line)

    def _files(self) -> list[Path]:
        """The files of the finished table: one, or its shards."""
        shards = sorted(self.path.parent.glob(f"{escape(self.path.stem)}-?????-of-?????{self.path.suffix}"))
        return [*shards, self.path] if self.path.exists() else shards

    def _finished(self) -> Iterator[Row]:
        """The rows of the finished table, if there is one."""
        for path in self._files():
            if path.suffix.lower() == ".jsonl":
                with open(path, "rb") as lines:
                    yield from (_row(_parsed(line), path) for line in lines if line.strip())
            else:
                for batch in parquet().ParquetFile(path).iter_batches():
                    yield from (_row(row, path) for row in batch.to_pylist())

    def _finish(self) -> None:
        """Write the table anew, in the list's order after the rows that are not in the list, and delete the part file.

        If it is killed here, the part file still has every row, and the next run writes the table again.
        """
        for row in self._finished():
            if row["key"] not in self._written:
                self.write(row)
        keys = [key for key in self._written if key not in self._order]
        keys += [key for key in self._order if key in self._written]
        size, old = self.shard or len(keys), self._files()
        pieces = [keys[i : i + size] for i in range(0, len(keys), size)]
        names = [self.path.name]
        if self.shard:
            count = len(pieces)
            names = [f"{self.path.stem}-{i:05}-of-{count:05}{self.path.suffix}" for i in range(1, count + 1)]
        new = [self.path.with_name(name) for name in names]
        with open(self.part, "rb") as lines:
            for path, piece in zip(new, pieces, strict=True):
                with replacing(path) as file:
                    self._write_file(file, (self._line(lines, key) for key in piece))
        for path in (*(path for path in old if path not in new), self.part):
            with suppress(OSError):
                path.unlink()

    def _line(self, lines: BinaryIO, key: str) -> bytes:
        lines.seek(self._written[key])
        return lines.readline()

    def _write_file(self, path: Path, rows: Iterator[bytes]) -> None:
        if self.path.suffix.lower() == ".jsonl":
            with path.open("wb") as file:
                file.writelines(rows)
        else:
            _write_parquet(path, (json.loads(line) for line in rows))


class Errors:
    """A .jsonl file of the items that could not be done, with the reasons. It is there only if there are any."""

    def __init__(self, path: Path):
        self.path, self.count = path, 0
        with suppress(OSError):  # of an earlier run, which this one repeats
            path.unlink()

    def note(self, key: str, error: InputError) -> None:
        """Add an item. Raises InputError if the disk refuses."""
        self.count += 1
        line = json.dumps({"key": key, "error": str(error)}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8", errors=ESCAPED, newline="\n") as file:
                file.write(f"{line}\n")
        except OSError as refused:
            raise InputError(f"{self.path} could not be written ({refused}).") from refused


def is_table(path: Path) -> bool:
    """Whether `path` is to be a Table; else it is a folder. Raises InputError for a file of another kind."""
    if path.suffix.lower() in OTHER_FILES and not path.is_dir():
        raise InputError(f"{path} is none of the kinds that are written: give a folder, or a .jsonl or .parquet file.")
    return path.suffix.lower() in TABLES and not path.is_dir()


def errors_beside(path: Path) -> Path:
    """Where the errors of what is written to `path` go."""
    return path.with_name(f"{path.stem}.errors.jsonl") if is_table(path) else path / "janus-errors.jsonl"


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def _row(row: Any, path: Path) -> Row:
    if not (isinstance(row, dict) and isinstance(row.get("key"), str)):
        raise InputError(f"{path} has a line that is none of such a table's ({shown(row)}): choose another name.")
    return row


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow

    schema, rows = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS]), iter(rows)
    with parquet().ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, 10_000)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema))
