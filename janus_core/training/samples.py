"""What the trainer learns from: samples of three kinds, drawn by ratio, the n-th of a run a pure function of its seed."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..processing import IMAGE_TAG, Processor, Turn
from .stages import KINDS

Source = Callable[[np.random.Generator, int], "Sample"]  # a generator of its own, and how many came before


@dataclass(frozen=True)
class Sample:
    """One training sequence.

    Understanding and text: `ids` are a conversation, and the tokens [start, end) of each of `answers` are learned.
    Generation: `ids` are the prompt up to begin_of_image, and the picture that follows is learned, given as `codes`
    or as a picture (uint8 [H, W, 3]) for the VQ tokenizer to encode.
    """

    kind: str
    ids: list[int]
    answers: tuple[tuple[int, int], ...] = ()
    pictures: tuple[np.ndarray, ...] = ()
    codes: np.ndarray | None = None

    def length(self, image_tokens: int) -> int:
        return len(self.ids) + (image_tokens if self.kind == "generation" else 0)


def answered(processor: Processor, turns: list[Turn], pictures: tuple[np.ndarray, ...]) -> Sample:
    """A sample that teaches what the assistant says, and where it ends, in each of its turns; the last is its own."""
    ids: list[int] = []
    answers = []
    named = any(IMAGE_TAG in turn["content"] for turn in turns)
    for number, turn in enumerate(turns):
        if turn["role"] == "assistant":
            before = turns[:number]
            shown = sum(t["content"].count(IMAGE_TAG) for t in before) if named else len(pictures)
            prompt = processor.question_prompt(before, shown)
            words = processor.tokenizer.encode(f" {turn['content'].strip()}", add_special_tokens=False).ids
            ids = [*prompt, *words, processor.eos]
            answers.append((len(prompt), len(ids)))
    return Sample("understanding" if pictures else "text", ids, tuple(answers), pictures)


class Mixture:
    """Samples of several sources by ratio. `sample(n)` depends on the seed and n alone, so a run resumes anywhere."""

    def __init__(self, sources: dict[str, Source], mix: tuple[float, ...], seed: int, pad: int, condition_drop: float):
        missing = [kind for kind, share in zip(KINDS, mix, strict=True) if share and kind not in sources]
        if missing:
            raise InputError(f"The mix asks for {missing[0]} samples and the data has none: set its share to 0.")
        self.sources, self.seed, self.pad, self.condition_drop = sources, seed, pad, condition_drop
        self.shares = np.array(mix, float) / sum(mix)

    def sample(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        kind = KINDS[int(rng.choice(len(KINDS), p=self.shares))]
        drop = rng.random() < self.condition_drop
        sample = self.sources[kind](rng, index)
        if kind == "generation" and drop:  # the unconditional prompt of classifier-free guidance
            return replace(sample, ids=[sample.ids[0], *[self.pad] * (len(sample.ids) - 2), sample.ids[-1]])
        return sample


def read_folder(folder: Path, processor: Processor) -> dict[str, Source]:
    """A user's own data: `folder/*.jsonl`, one object a line, picture paths relative to the folder.

    `{"image": "a.png", "prompt": "..."}` teaches drawing; `{"images": ["a.png"], "question": "...", "answer": "..."}`
    (or `"turns": [{"role": "user", "content": "..."}, ...]` ending with the assistant's) teaches answering; without
    pictures it is plain text. Raises InputError naming file and line for anything else.
    """
    lines: dict[str, list[dict]] = {}
    readable: set[Path] = set()
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise InputError(f"{folder} holds no .jsonl file: write one with a JSON object a line, beside its pictures.")
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                kind, entry = _read_line(line, folder, f"{path} line {number}", processor, readable)
                lines.setdefault(kind, []).append(entry)

    def source(entries: list[dict]) -> Source:
        return lambda rng, index: _sample_of(entries[int(rng.integers(len(entries)))], processor)

    return {kind: source(entries) for kind, entries in lines.items()}


def _read_line(line: str, folder: Path, where: str, processor: Processor, readable: set[Path]) -> tuple[str, dict]:
    """A line's kind and what it says; `readable` gathers the pictures that were opened, to do so once each."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}): each line holds one object.") from error
    if not isinstance(entry, dict) or not (
        "prompt" in entry or "turns" in entry or {"question", "answer"} <= set(entry)
    ):
        raise InputError(f"{where} has neither a prompt, nor turns, nor a question and an answer.")
    names = entry.get("images") or ([entry["image"]] if "image" in entry else [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where} names its pictures as {names!r}: give a list of paths.")
    paths = [folder / name for name in names]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{where} names {missing[0]}, which is not there: paths are relative to {folder}.")
    for path in set(paths) - readable:
        try:
            with Image.open(path) as image:
                image.verify()
        except Exception as error:  # Pillow's readers raise anything: OSError, SyntaxError, ValueError, ...
            raise InputError(f"{where} names {path}, which is no picture that can be read ({error}).") from error
    readable.update(paths)
    if "prompt" in entry:
        if len(paths) != 1:
            raise InputError(f"{where} has a prompt and {len(paths)} pictures: a prompt goes with exactly one.")
        if not isinstance(entry["prompt"], str) or not entry["prompt"].strip():
            raise InputError(f"{where} has the prompt {entry['prompt']!r}: say in words what the picture shows.")
        return "generation", {"prompt": entry["prompt"], "paths": paths}
    asked, told = entry.get("question"), entry.get("answer")
    turns: Any = entry.get("turns", [{"role": "user", "content": asked}, {"role": "assistant", "content": told}])
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn["content"].strip() for turn in turns
    ):
        raise InputError(f"{where} has a turn without words: each is an object with a role and its content, as text.")
    if len(turns) < 2 or turns[-1].get("role") != "assistant":
        raise InputError(f"{where} has turns that do not end with the assistant's: what it says is what is learned.")
    try:
        processor.question_prompt(turns[:-1], len(paths))
    except (InputError, KeyError) as error:
        raise InputError(f"{where} is no conversation: {error}") from error
    return ("understanding" if paths else "text"), {"turns": turns, "paths": paths}


def _sample_of(entry: dict, processor: Processor) -> Sample:
    pictures = []
    for path in entry["paths"]:
        with Image.open(path) as image:
            pictures.append(image.convert("RGB"))
    if "prompt" in entry:
        square = centre_crop(pictures[0], processor.image_size)
        return Sample("generation", processor.drawing_prompt(entry["prompt"]), pictures=(square,))
    arrays = tuple(np.asarray(picture) for picture in pictures)
    return answered(processor, entry["turns"], arrays)


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """Resize the short side to `size` and cut out the middle square, uint8 [size, size, 3]."""
    scale = size / min(image.size)
    width, height = (max(round(side * scale), size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))
