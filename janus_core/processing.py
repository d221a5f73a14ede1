"""From text and pictures to token ids and pixels: tokenizer, special tokens, chat template.

Only the chat template makes special tokens. Text of users, and answers that go back into a chat, are plain text.
"""

import re
from collections.abc import Iterable
from typing import Literal, TypedDict

from tokenizers import Tokenizer
from torch import Tensor

from .config import JanusConfig
from .errors import CheckpointError, InputError
from .pictures import Normalisation, check_images, preprocess, to_pil
from .weights.checkpoint import CheckpointFiles

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
IMAGE_TAG = "<image_placeholder>"
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
BEGIN_OF_IMAGE, END_OF_IMAGE = "<begin_of_image>", "<end_of_image>"


class Turn(TypedDict):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class Special(str):
    """A part of a prompt that is a special token, if the tokenizer has it. All other parts are plain text."""


class Processor:
    """A checkpoint's tokenizer, special ids, role names, and picture size and scaling.

    Raises CheckpointError when a file that it needs is missing or belongs to another model.
    """

    def __init__(self, files: CheckpointFiles, config: JanusConfig):
        path, text = files.describe("tokenizer.json"), files.read("tokenizer.json")
        if text is None:
            raise CheckpointError(f"{files.folder} has no tokenizer.json: put the model's own beside its weights.")
        try:
            self.tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{path} is not a readable tokenizer ({error}): fetch it again.") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        named = files.read_json("special_tokens_map.json")
        self.bos = self._special_id(_token_text(named.get("bos_token")) or BOS, path)
        self.eos = self._special_id(_token_text(named.get("eos_token")) or EOS, path)
        self.pad = self._special_id(_token_text(named.get("pad_token")) or PAD, path)
        self.begin_of_image = self._special_id(BEGIN_OF_IMAGE, path)
        self.end_of_image = self._special_id(END_OF_IMAGE, path)
        self.image = self._special_id(IMAGE_TAG, path)
        # Janus-1.3B was trained with plain role names, Janus-Pro with a token for each.
        template = "{}" if files.is_1_3b or self.tokenizer.token_to_id("<|User|>") is None else "<|{}|>"
        self.roles = {"user": template.format("User"), "assistant": template.format("Assistant")}
        self.role_type = str if template == "{}" else Special
        self._separate_special_tokens()
        self.image_tokens = config.vision.tokens
        self._last_question: tuple[object, list[int]] = (None, [])  # for callers that need its length first
        self.image_size = config.vision.image_size
        settings = files.read_json("preprocessor_config.json")
        default = Normalisation()
        mean, std = settings.get("image_mean") or default.mean, settings.get("image_std") or default.std
        try:
            self.normalisation = Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
            usable = len(mean) == len(std) == 3 and all(std)
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise CheckpointError(
                f"{files.describe('preprocessor_config.json')} has no usable image_mean and image_std: fetch it again."
            )

    def _special_id(self, token: str, path: str) -> int:
        index = self.tokenizer.token_to_id(token)
        if index is None:
            raise CheckpointError(f"{path} has no token {token!r}: it is the tokenizer of another model.")
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
        """Text -> ids without BOS; what is spelled like a special token is text too."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def _join(self, parts: Iterable[str]) -> list[int]:
        """The parts of a prompt -> ids with one BOS in front. Text is encoded between special tokens as a whole."""
        ids, text = [self.bos], ""
        for part in parts:
            index = self.tokenizer.token_to_id(part) if isinstance(part, Special) else None
            if index is None:
                text += part
            else:
                ids += [*self.plain(text), index]
                text = ""
        return ids + self.plain(text)

    def decode(self, ids: list[int]) -> str:
        """Ids -> text without special tokens or surrounding white space."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def render(self, turns: list[Turn], system: str = "") -> str:
        """The chat template: the conversation as text, ending where the assistant's next turn begins."""
        return "".join(self._template(turns, system))

    def _template(self, turns: list[Turn], system: str = "", *, pictures: bool = False) -> list[str]:
        """The parts of `render`'s text. With `pictures`, the tags in the user's turns are special tokens."""
        parts = [Special(system), "\n\n"] if system else []  # janus-mini has a token for the system prompt
        for turn in turns:
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

    def question_prompt(self, turns: str | list[Turn], pictures: int) -> list[int]:
        """A question, or a conversation that ends with one, about `pictures` pictures -> prompt ids.

        If there are pictures, each `<image_placeholder>` in the user's text is the position of one; without any, they
        precede the first question. Raises InputError for an empty question, or when placeholders and pictures differ in
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
        asked = [(turn["role"], turn["content"]) for turn in turns], pictures
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
    """The positions of pictures in the user's turns. What the assistant says is text."""
    return sum(turn["content"].count(IMAGE_TAG) for turn in turns if turn["role"] == "user")


def _token_text(token: str | dict | None) -> str | None:
    """A special token as the JSON files spell it: a string, or an object with its content."""
    return token.get("content") if isinstance(token, dict) else token
