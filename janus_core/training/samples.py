"""Training samples of three kinds, read from a user's data and mixed by ratio."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..generation.codes import unconditional
from ..pictures import read_picture
from ..processing import Processor, Turn, count_tags
from .stages import KINDS

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PictureSource = Callable[[np.random.Generator, int], np.ndarray]  # count -> uint8 [count, H, W, 3]
Source = Callable[[np.random.Generator, int], "Sample"]  # from the sample's own generator and its number in the run


@dataclass(frozen=True)
class Sample:
    """One training sequence.

    Understanding and text: `ids` are a conversation, and the loss is on the tokens [start, end) of each of `answers`.
    Generation: `ids` are the prompt up to begin_of_image, and the loss is on the picture that follows, given as
    `codes` or as a picture (uint8 [H, W, 3]) that the VQ tokenizer encodes.
    """

    kind: str
    ids: list[int]
    answers: tuple[tuple[int, int], ...] = ()
    pictures: tuple[np.ndarray, ...] = ()
    codes: np.ndarray | None = None

    def length(self, image_tokens: int) -> int:
        """Its tokens, where a picture to draw has `image_tokens`."""
        return len(self.ids) + (image_tokens if self.kind == "generation" else 0)


def answered(processor: Processor, turns: list[Turn], pictures: tuple[np.ndarray, ...] = ()) -> Sample:
    """A conversation that ends with the assistant, with the loss on each of the assistant's turns and its EOS."""
    ids: list[int] = []
    answers = []
    tagged = count_tags(turns) > 0 and len(pictures) > 0
    for number, turn in enumerate(turns):
        if turn["role"] == "assistant":
            prompt = processor.question_prompt(turns[:number], count_tags(turns[:number]) if tagged else len(pictures))
            answer = processor.plain(f" {turn['content'].strip()}")
            ids = [*prompt, *answer, processor.eos]
            answers.append((len(prompt), len(ids)))
    return Sample("understanding" if pictures else "text", ids, tuple(answers), pictures)


class Mixture:
    """Samples of several sources by ratio.

    `sample(n)` depends on the seed and n alone, so that a run can resume at any sample. `mix` has a share for each of
    KINDS. `condition_drop` is the share of drawing prompts replaced by `pad`, for classifier-free guidance. Raises
    InputError for a share of a kind that has no source.
    """

    def __init__(
        self, sources: dict[str, Source], mix: tuple[float, ...], *, seed: int, pad: int, condition_drop: float
    ):
        missing = [kind for kind, share in zip(KINDS, mix, strict=True) if share and kind not in sources]
        if missing:
            raise InputError(f"The mix asks for {missing[0]} samples and the data has none: set its share to 0.")
        self.sources, self.seed, self.pad, self.condition_drop = sources, seed, pad, condition_drop
        self.shares = np.array(mix, float) / sum(mix)

    def sample(self, index: int) -> Sample:
        """Sample number `index` of the run."""
        rng = np.random.default_rng([self.seed, index])
        kind = KINDS[int(rng.choice(len(KINDS), p=self.shares))]
        drop = rng.random() < self.condition_drop
        sample = self.sources[kind](rng, index)
        if kind == "generation" and drop:
            return replace(sample, ids=unconditional(sample.ids, self.pad))
        return sample


def read_folder(folder: Path, processor: Processor) -> dict[str, Source]:
    """A user's own data: `folder/*.jsonl`, one JSON object a line, picture paths relative to the folder; and pictures
    beside a `.txt` of the same name, their caption, which are generation samples.

    `{"image": "a.png", "prompt": "..."}` is a generation sample. `{"images": ["a.png"], "question": "...", "answer":
    "..."}`, or `"turns": [{"role": "user", "content": "..."}, ...]` that end with the assistant's, is an understanding
    sample, and without pictures a text sample. Raises InputError with file and line for anything else.
    """
    entries: dict[str, list[dict]] = {}
    readable: set[Path] = set()
    captioned = _captioned(folder)
    files = sorted(folder.glob("*.jsonl"))
    if not files and not captioned:
        raise InputError(
            f"{folder} contains no .jsonl file and no picture with a .txt beside it: put a caption beside each picture "
            "(a.png and a.txt), or write a .jsonl file with a JSON object a line."
        )
    for picture, text in captioned:
        line = json.dumps({"image": picture.name, "prompt": _caption(text)})
        kind, entry = _read_line(line, folder, str(text), processor, readable)
        entries.setdefault(kind, []).append(entry)
    for path in files:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                kind, entry = _read_line(line, folder, f"{path} line {number}", processor, readable)
                entries.setdefault(kind, []).append(entry)

    def source(choices: list[dict]) -> Source:
        return lambda rng, index: _sample_of(choices[int(rng.integers(len(choices)))], processor)

    return {kind: source(choices) for kind, choices in entries.items()}


def captions(folder: Path) -> list[str]:
    """The captions of `read_folder`'s generation samples."""
    lines = [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    entries = [json.loads(line) for line in lines if line.strip()]
    return [_caption(text) for _, text in _captioned(folder)] + [e["prompt"] for e in entries if "prompt" in e]


def _captioned(folder: Path) -> list[tuple[Path, Path]]:
    """Each picture of the folder that has a caption, and that file."""
    pictures = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    return [(path, text) for path in pictures if (text := path.with_suffix(".txt")).is_file()]


def _caption(text: Path) -> str:
    return text.read_text(encoding="utf-8").strip()


def _read_line(line: str, folder: Path, where: str, processor: Processor, readable: set[Path]) -> tuple[str, dict]:
    """A line's kind and content. `readable` collects the pictures already checked, so that each is opened once."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}): each line must be one object.") from error
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
            raise InputError(f"{where} names {path}, which cannot be read as a picture ({error}).") from error
    readable.update(paths)
    if "prompt" in entry:
        if len(paths) != 1:
            raise InputError(f"{where} has a prompt and {len(paths)} pictures: a prompt goes with exactly one.")
        if not isinstance(entry["prompt"], str) or not entry["prompt"].strip():
            raise InputError(f"{where} has the prompt {entry['prompt']!r}: describe the picture in words.")
        return "generation", {"prompt": entry["prompt"], "paths": paths}
    question, answer = entry.get("question"), entry.get("answer")
    turns: Any = entry.get("turns", [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("content"), str) and turn["content"].strip() for turn in turns
    ):
        raise InputError(
            f"{where} has a turn without text: each turn is an object with a role and its content as text."
        )
    if len(turns) < 2 or turns[-1].get("role") != "assistant":
        raise InputError(
            f"{where} has turns that do not end with the assistant's: add its answer, which is what the model learns."
        )
    try:
        processor.question_prompt(turns[:-1], len(paths))
    except (InputError, KeyError) as error:
        raise InputError(f"{where} is not a conversation: {error}") from error
    return ("understanding" if paths else "text"), {"turns": turns, "paths": paths}


def _sample_of(entry: dict, processor: Processor) -> Sample:
    pictures = [read_picture(path) for path in entry["paths"]]
    if "prompt" in entry:
        return Sample(
            "generation",
            processor.drawing_prompt(entry["prompt"]),
            pictures=(centre_crop(pictures[0], processor.image_size),),
        )
    return answered(processor, entry["turns"], tuple(np.asarray(picture) for picture in pictures))


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """The picture with its short side resized to `size` and its middle square cut out, uint8 [size, size, 3]."""
    width, height = (max(round(side * (size / min(image.size))), size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


def folder_pictures(folder: Path, size: int) -> PictureSource:
    """A folder's pictures for the VQ tokenizer, each resized and cropped to `size`. Raises InputError if it has none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise InputError(f"{folder} contains no picture (.png, .jpg, .webp).")

    def pictures(rng: np.random.Generator, count: int) -> np.ndarray:
        return np.stack([centre_crop(read_picture(paths[i]), size) for i in rng.integers(len(paths), size=count)])

    return pictures
