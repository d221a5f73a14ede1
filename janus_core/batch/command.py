"""`describe` and `generate` over lists: progress, what is left out, what went wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..checkpoints import load
from ..errors import InputError
from ..pictures import to_pil
from ..pipeline import Janus
from .answers import answer_all
from .drawing import draw_all
from .items import Item, count_items, picture_items, prompt_items
from .output import Errors, Files, Table, errors_beside, is_table
from .presets import wording
from .sizes import fitting_pictures, fitting_rows


class Work:
    """A run over a list: its bar, its counts, and its file of errors."""

    def __init__(self, total: int, output: Path, unit: str):
        self.output, self.errors = output, Errors(errors_beside(output))
        self.done = self.skipped = 0
        self.bar = tqdm(total=total, unit=unit, file=sys.stderr, disable=None)

    def new(self, items: Iterable[Item], has: Callable[[Item], bool]) -> Iterator[Item]:
        """The items that are not there yet."""
        for item in items:
            try:
                there = has(item)
            except InputError as error:
                self.failed(item, error)
                continue
            if there:
                self.skipped += 1
                self.bar.total -= 1  # so that rate and time left are those of work
                self.bar.refresh()
            else:
                yield item

    def failed(self, item: Item, error: InputError) -> None:
        self.failed_key(item.key, error)

    def failed_key(self, key: str, error: InputError) -> None:
        self.errors.note(key, error)
        self.bar.update()

    def finished(self, count: int = 1) -> None:
        self.done += count
        self.bar.update(count)

    def end(self) -> None:
        """Print what was done."""
        self.bar.close()
        there = f", {self.skipped} there already" if self.skipped else ""
        bad = f", {self.errors.count} could not be done: {self.errors.path} says why" if self.errors.count else ""
        print(f"{self.output}: {self.done} done{there}{bad}")


def describe_list(args: argparse.Namespace) -> None:
    """Answer the question about each picture of a list, into a table or one text file a picture."""
    if len(args.pictures) != 1:
        raise InputError(f"--out takes one folder or list of pictures, and {len(args.pictures)} are given.")
    _check_batch(args.batch)
    [source], output = args.pictures, args.output
    words = wording(args.preset, args.question).within(args.prefix, args.suffix).with_trigger(args.trigger)
    target = Table(output, shard=args.shard) if is_table(output) else Files(output, ".txt")
    work = Work(count_items(source), output, "picture")

    def finished(item: Item, answer: str) -> None:
        caption = words.caption(answer)
        if isinstance(target, Table):
            target.write({"key": item.key, "question": item.text, "answer": caption})
        else:
            target.write_text(item, caption)
        work.finished()

    with target if isinstance(target, Table) else nullcontext():
        items = picture_items(source, question=words.question, seed=args.seed, failed=work.failed_key)
        settings = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature}
        todo = work.new(items, target.has)
        if args.ray is not None:
            from .on_ray import Answers

            _on_ray(args, Answers, settings, todo, finished=finished, failed=work.failed)
        elif (started := _started(args, todo)) is not None:
            janus, items = started
            rows = args.batch or fitting_rows(janus, max_new_tokens=args.max_new_tokens)
            answer_all(janus, items, rows=rows, **settings, finished=finished, failed=work.failed)
    work.end()


def generate_list(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Draw each prompt of a list, one PNG a picture, with these settings of `Janus.generate`."""
    if settings.pop("sampler") != "sequential":
        raise InputError("--sampler jacobi is for few pictures at once: leave it out for a list.")
    if is_table(args.output):
        raise InputError(f"{args.output} is no place for pictures: give a folder as --out.")
    _check_batch(args.batch)
    for name in ("seed", "window"):
        settings.pop(name)
    target, work = (
        Files(args.output, ".png", keep=True),
        Work(count_items(args.prompts) * args.count, args.output, "picture"),
    )

    def finished(items: list[Item], pictures: Tensor) -> None:
        for item, picture in zip(items, pictures, strict=True):
            target.write(item, lambda part, picture=picture: to_pil(picture).save(part, "PNG"))
            work.finished()

    def drawn(item: Item, png: bytes) -> None:
        target.write(item, lambda part: part.write_bytes(png))
        work.finished()

    prompts = work.new(prompt_items(args.prompts, seed=args.seed, count=args.count, failed=work.failed_key), target.has)
    if args.ray is not None:
        from .on_ray import Pictures

        _on_ray(args, Pictures, settings, prompts, finished=drawn, failed=work.failed)
    elif (started := _started(args, prompts)) is not None:
        janus, prompts = started
        batch = args.batch or fitting_pictures(janus, **settings)
        draw_all(janus, prompts, batch=batch, finished=finished, failed=work.failed, **settings)
    work.end()


def _on_ray(
    args: argparse.Namespace, kind: type[Any], settings: dict[str, Any], items: Iterator[Item], **calls: Any
) -> None:
    """Do the items on Ray, unless there are none: then no cluster is started."""
    from .on_ray import Job, work_on_ray

    if args.cores < 1:
        raise InputError(f"--cores is {args.cores}: give at least 1.")
    first, checkpoint = next(items, None), Path(args.checkpoint)
    if first is not None:
        where = str(checkpoint.absolute() if checkpoint.exists() else args.checkpoint)
        job = Job(where, args.device, args.dtype, settings, batch=args.batch, cores=args.cores)
        work_on_ray(kind, job, chain([first], items), address=args.ray, **calls)


def _check_batch(batch: int | None) -> None:
    if batch is not None and batch < 1:
        raise InputError(f"--batch is {batch}: give at least 1, or leave it out.")


def _started(args: argparse.Namespace, items: Iterator[Item]) -> tuple[Janus, Iterator[Item]] | None:
    """The model and the items, unless there are none: then no model is loaded."""
    first = next(items, None)
    return None if first is None else (load(args.checkpoint, args.device, args.dtype), chain([first], items))
