"""From text and pictures to token ids and pixels: tokenizer, special tokens, chat template.

Only the chat template makes special tokens. Text of users, and answers that go back into a chat, are plain text.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from .config import JanusConfig
from .dialects import SYSTEM_PROMPT, Dialect, dialect_of
from .errors import CheckpointError, InputError, shown
from .generation.codes import FEATURE
from .pictures import Normalisation, check_images, preprocess, to_pil
from .weights.checkpoint import CheckpointFiles

IMAGE_TAG = "<image_placeholder>"
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
BEGIN_OF_IMAGE, END_OF_IMAGE = "<begin_of_image>", "<end_of_image>"


class _Said(TypedDict):
    role: Literal["user", "assistant"]
    content: str


class Turn(_Said, total=False):
    """One message of a conversation. With `drawn`, the assistant's message is a picture, and `content` is empty."""

    drawn: bool


class Special(str):
    """A part of a prompt that is a special token, if the tokenizer has it. All other parts are plain text."""


class Processor:
    """A checkpoint's tokenizer, special ids, dialect, and picture size and scaling.

    Without a `dialect` it is what the files tell.
    Raises CheckpointError when a file that it needs is missing or belongs to another model.
    """

    def __init__(self, files: CheckpointFiles, config: JanusConfig, dialect: Dialect | None = None):
        self.path, text = files.describe("tokenizer.json"), files.read("tokenizer.json")
        if text is None:
            raise CheckpointError(f"{files.folder} has no tokenizer.json: put the model's own beside its weights.")
        with self._library():
            self.tokenizer = Tokenizer.from_str(text)
            self.tokenizer.no_truncation()
            self.tokenizer.no_padding()
            # `encode` puts BOS in front, and a prompt is as long as its own tokens.
            self.tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
            largest = max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= config.llama.vocab_size:
            raise CheckpointError(
                f"{self.path} has a token of id {largest}, where the model knows {config.llama.vocab_size}: it is the tokenizer "
                "of another model."
            )
        named = files.read_json("special_tokens_map.json")
        where = files.describe("special_tokens_map.json")
        self.bos = self._special_id(_token_text(named, "bos_token", where) or BOS)
        self.eos = self._special_id(_token_text(named, "eos_token", where) or EOS)
        self.pad = self._special_id(_token_text(named, "pad_token", where) or PAD)
        self.begin_of_image = self._special_id(BEGIN_OF_IMAGE)
        self.end_of_image = self._special_id(END_OF_IMAGE)
        self.image = self._special_id(IMAGE_TAG)
        self.dialect = dialect or dialect_of(files)
        plain = self.dialect.plain_roles or self.tokenizer.token_to_id("<|User|>") is None
        template = "{}" if plain else "<|{}|>"
        self.roles = {"user": template.format("User"), "assistant": template.format("Assistant")}
        self.role_type = str if plain else Special
        self._separate_special_tokens()
        self.image_tokens = config.vision.tokens
        self._last_question: tuple[object, list[int]] = (None, [])  # for callers that need its length first
        self.image_size = config.vision.image_size
        settings, default = files.read_json("preprocessor_config.json"), Normalisation()
        mean, std = settings.get("image_mean") or default.mean, settings.get("image_std") or default.std
        if not _are_shares(mean) or not _are_shares(std) or not all(std):
            raise CheckpointError(
                f"{files.describe('preprocessor_config.json')} has no usable image_mean and image_std, three numbers from 0 "
                "to 1 each: fetch it again."
            )
        self.normalisation = Normalisation(tuple(mean), tuple(std))

    @contextmanager
    def _library(self) -> Iterator[None]:
        """Around each call of the tokenizers library: raises CheckpointError when it fails or panics.

        A panic of its Rust code on a damaged file is no Exception, and would end the thread that serves all runs.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise CheckpointError(
                f"{self.path} is not a readable tokenizer ({shown(error)}): fetch it again."
            ) from error

    def _special_id(self, token: str) -> int:
        with self._library():
            index = self.tokenizer.token_to_id(token)
        if index is None:
            raise CheckpointError(f"{self.path} has no token '{shown(token)}': it is the tokenizer of another model.")
        return index

    def _separate_special_tokens(self) -> None:
        """From here on the tokenizer reads all text as plain; `encode` finds the special tokens itself."""
        used = [BEGIN_OF_IMAGE, IMAGE_TAG, EOS, *(role for role in self.roles.values() if self.role_type is Special)]
        self.tokenizer.add_special_tokens([token for token in used if self.tokenizer.token_to_id(token) is not None])
        self.tokenizer.encode_special_tokens = True
        special = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.special]
        self._special_tokens = re.compile(f"({'|'.join(map(re.escape, {*special, *used}))})")

    def encode(self, text: str) -> list[int]:
        """A prompt of your own -> ids with one BOS in front. Special tokens in it are tokens: for others' text use `plain`."""
        return self._join(Special(part) if i % 2 else part for i, part in enumerate(self._special_tokens.split(text)))

    def plain(self, text: str) -> list[int]:
        """Text -> ids without BOS; what is spelled like a special token is text too.

        Half an emoji, as a cut text may end with, is read as U+FFFD.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        with self._library():
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _join(self, parts: Iterable[str]) -> list[int]:
        """The parts of a prompt -> ids with one BOS in front. Text is encoded between special tokens as a whole."""
        ids, text = [self.bos], ""
        for part in parts:
            with self._library():
                index = self.tokenizer.token_to_id(part) if isinstance(part, Special) else None
            if index is None:
                text += part
            else:
                ids += [*self.plain(text), index]
                text = ""
        return ids + self.plain(text)

    def decode(self, ids: list[int]) -> str:
        """Ids -> text without special tokens or surrounding white space."""
        return self._text(ids).strip()

    def _text(self, ids: list[int]) -> str:
        with self._library():
            return self.tokenizer.decode(ids, skip_special_tokens=True)

    def render(self, turns: list[Turn], system: str = "") -> str:
        """The chat template: the conversation as text, ending where the assistant's next turn begins."""
        return "".join(self._template(turns, system))

    def _template(self, turns: list[Turn], system: str = "", *, pictures: bool = False) -> list[str]:
        """The parts of `render`'s text. With `pictures`, the tags in the user's turns are special tokens."""
        parts = [Special(system), "\n\n"] if system else []  # janus-mini has a token for the system prompt
        for turn in turns:
            if _is_drawn(turn):
                parts += [self.role_type(self.roles["assistant"]), ":", Special(IMAGE_TAG), Special(EOS)]
                continue
            parts += [self.role_type(self.roles[turn["role"]]), ": "]
            content = turn["content"].strip()
            if turn["role"] == "assistant":
                parts += [content, Special(EOS)]
            elif pictures:
                texts = content.split(IMAGE_TAG)
                parts += [part for text in texts[:-1] for part in (text, Special(IMAGE_TAG))] + [texts[-1], "\n\n"]
            else:
                parts += [content, "\n\n"]
        return [*parts, self.role_type(self.roles["assistant"]), ":"]

    def drawing_prompt(self, prompt: str) -> list[int]:
        """A description -> prompt ids that end with begin_of_image. Raises InputError when it is empty."""
        if not prompt.strip():
            raise InputError("The prompt is empty: say what to draw.")
        return self._join([*self._template([{"role": "user", "content": prompt}]), Special(BEGIN_OF_IMAGE)])

    def editing_prompt(self, instruction: str, codes: int, *, hidden: bool = False) -> list[int]:
        """An instruction and a picture -> ids to draw the changed picture from, which end with begin_of_image.

        The picture is there twice, each time as places of features: as it is read, then as its `codes` are drawn. With
        `hidden` the codes are pads.
        """
        begin, end = self.begin_of_image, self.end_of_image
        read = [begin, *[FEATURE] * self.image_tokens, end]
        drawn = [begin, *[self.pad if hidden else FEATURE] * codes, end]
        user, assistant = (self.role_type(role) for role in self.roles.values())
        said = [user, ": ", Special(IMAGE_TAG), instruction.strip(), "\n\n", assistant, ":", Special(BEGIN_OF_IMAGE)]
        ids = self._join(said)
        place = ids.index(self.image)
        return [*ids[:place], *read, *drawn, *ids[place + 1 :]]

    def thinking_prompt(self, prompt: str) -> list[int]:
        """A description -> prompt ids after which the model thinks about it. Raises InputError when it is empty."""
        self.drawing_prompt(prompt)
        how = self.dialect.thinking
        question = how.question.format(prompt=prompt.strip())
        return self._join(self._template([{"role": "user", "content": question}], how.system))

    def thought_prompt(self, prompt: str, thought: list[int]) -> list[int]:
        """A description and the ids of a thought about it -> ids to draw from, which end with begin_of_image.

        Raises InputError when they leave nothing to draw.
        """
        how = self.dialect.thinking
        if how.drawing is not None:
            text = how.drawing.format(prompt=prompt.strip(), thought=self._text(thought))
            if not text.strip():
                raise InputError("The model had no thought about this prompt: take another seed, or turn thinking off.")
            return self.drawing_prompt(text)
        # As the authors have it, the last token of a thought that did not end becomes begin_of_image.
        end = thought.index(self.begin_of_image) if self.begin_of_image in thought else how.max_tokens - 1
        return [*self.thinking_prompt(prompt), *thought[:end], self.begin_of_image]

    def question_prompt(self, turns: str | list[Turn], pictures: int) -> list[int]:
        """A question, or a conversation that ends with one, about `pictures` pictures -> prompt ids.

        If there are pictures, each `<image_placeholder>` in the user's text is the position of one, and so is each turn that
        was drawn; without any, they precede the first question. Raises InputError for an empty question, or when placeholders and pictures differ in
        number.
        """
        if isinstance(turns, str):
            turns = [{"role": "user", "content": turns}]
        if not turns or turns[-1]["role"] != "user" or not all(t["role"] in self.roles for t in turns):
            raise InputError("A conversation is turns of 'user' and 'assistant', and the last is the user's.")
        if not all(turn["content"].replace(IMAGE_TAG, "").strip() for turn in turns if turn["role"] == "user"):
            raise InputError("The question is empty: ask something about the picture.")
        placeholders = count_tags(turns)
        if placeholders == 0 and pictures:
            first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
            content = f"{IMAGE_TAG}\n" * pictures + turns[first]["content"]
            turns = [*turns[:first], {"role": "user", "content": content}, *turns[first + 1 :]]
        elif pictures and placeholders != pictures:
            raise InputError(
                f"The text names {placeholders} pictures with {IMAGE_TAG} and {pictures} were given: use one tag per picture, or none."
            )
        asked = [(turn["role"], turn["content"], _is_drawn(turn)) for turn in turns], pictures
        last, ids = self._last_question
        if asked == last:
            return ids.copy()
        picture = [self.begin_of_image, *[self.image] * self.image_tokens, self.end_of_image]
        ids = []
        for token in self._join(self._template(turns, SYSTEM_PROMPT, pictures=pictures > 0)):
            ids += picture if token == self.image else [token]
        self._last_question = asked, ids
        return ids.copy()

    def pixels(self, images: list[Tensor]) -> Tensor:
        """Pictures float [H, W, 3] in 0..1, of any sizes -> pixels float32 [N, 3, S, S] for SigLIP, on the CPU."""
        pictures = [to_pil(check_images(image[None])[0]) for image in images]
        return preprocess(pictures, self.image_size, self.normalisation)


def count_tags(turns: Iterable[Turn]) -> int:
    """The positions of pictures: the tags in the user's turns, and the turns that were drawn. Else an assistant's turn is text."""
    return sum(turn["content"].count(IMAGE_TAG) if turn["role"] == "user" else _is_drawn(turn) for turn in turns)


def _is_drawn(turn: Turn) -> bool:
    return turn["role"] == "assistant" and turn.get("drawn", False)


def _token_text(named: dict[str, Any], name: str, where: str) -> str | None:
    """A special token as the JSON files spell it: a string, or an object with its content."""
    token = named.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    if text is not None and not isinstance(text, str):
        raise CheckpointError(f"{where} has a {name} that is no text ({shown(repr(token))}): fetch it again.")
    return text


def _are_shares(values: Any) -> bool:
    """Whether these are three numbers from 0 to 1."""
    numbers = isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)
    return numbers and len(values) == 3 and all(0 <= value <= 1 for value in values)
