"""What captions are asked for and what stands around them. The ready-made questions are in presets.json, to be edited."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..errors import InputError, shown

FILE = Path(__file__).with_name("presets.json")
TRIGGER = "[trigger]"


@dataclass(frozen=True)
class Wording:
    """A question to ask about each picture, and the texts before and after its answer."""

    question: str
    prefix: str = ""
    suffix: str = ""

    def caption(self, answer: str) -> str:
        """The answer with what stands around it."""
        return f"{self.prefix}{answer}{self.suffix}"

    def within(self, prefix: str, suffix: str) -> Wording:
        """With more before and after it."""
        return replace(self, prefix=prefix + self.prefix, suffix=self.suffix + suffix)

    def with_trigger(self, word: str) -> Wording:
        """With `word` in every place of TRIGGER. Raises InputError for a word without a place, or a place without a word."""
        texts = {field.name: getattr(self, field.name) for field in fields(self)}
        if any(TRIGGER in text for text in texts.values()) != bool(word.strip()):
            raise InputError(
                f"The trigger word {shown(repr(word))} has no place: choose the preset training, or write {TRIGGER} into prefix, "
                "suffix or question."
                if word.strip()
                else f"The caption has a place for a trigger word ({TRIGGER}) and there is none: give one."
            )
        return Wording(**{name: text.replace(TRIGGER, word.strip()) for name, text in texts.items()})


def read_presets(path: Path = FILE) -> dict[str, Wording]:
    """Name -> each preset of the file. Raises InputError for a file that is no JSON object of such presets."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        presets = {name: Wording(**texts) for name, texts in found.items()}
        if not all(isinstance(text, str) for preset in presets.values() for text in vars(preset).values()):
            raise TypeError("not all of it is text")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no list of presets ({shown(error)}): give each a question, and a prefix and a suffix if you like."
        ) from error
    return presets


def wording(preset: str | None, question: str) -> Wording:
    """A preset by its name, or for None the `question`. Raises InputError for an unknown name."""
    if preset is None:
        return Wording(question)
    presets = read_presets()
    if preset not in presets:
        raise InputError(f"There is no preset {shown(repr(preset))} in {FILE}: choose {', '.join(presets)}.")
    return presets[preset]
