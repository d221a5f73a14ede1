"""Words and pictures on their way in and out: tokenizer, chat template, image preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from .config import JanusConfig
from .errors import CheckpointError, InputError
from .weights.checkpoint import CheckpointFiles

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
IMAGE_TAG = "<image_placeholder>"
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
BEGIN_OF_IMAGE, END_OF_IMAGE = "<begin_of_image>", "<end_of_image>"
MIN_SIDE = 14


class Turn(TypedDict):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Normalisation:
    """How pixels are scaled for SigLIP, per channel: (x / 255 - mean) / std."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


def check_images(images: Tensor) -> Tensor:
    """Pass on pictures float [N, H, W, 3]; raise InputError for any other shape, an empty batch, or NaN."""
    if not images.is_floating_point() or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise InputError(
            f"The pictures have shape {list(images.shape)} and type {images.dtype}: give one or more as floats "
            "[N, height, width, 3], red, green and blue from 0 to 1."
        )
    if not bool(torch.isfinite(images).all()):
        raise InputError("The picture holds NaN or infinite values: the step that made it failed, so look there first.")
    return images


def to_pil(image: Tensor) -> Image.Image:
    """Picture float [H, W, 3] in 0..1 -> 8-bit PIL, by rounding: what was loaded from 8 bits comes back unchanged."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def letterbox(image: Image.Image, size: int, background: tuple[int, ...]) -> Image.Image:
    """Scale the long side to `size` (bicubic, antialiased, sides truncated to whole pixels) and pad to a square."""
    longest = max(image.size)
    width, height = (max(int(side / longest * size), MIN_SIDE) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    side = max(width, height)
    square = Image.new("RGB", (side, side), background)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def preprocess(images: list[Image.Image], size: int, normalisation: Normalisation) -> Tensor:
    """RGB pictures of any size -> pixels float32 [N, 3, size, size] as SigLIP was trained to see them."""
    background = tuple(int(m * 255) for m in normalisation.mean)
    squares = np.stack([np.asarray(letterbox(image, size, background)) for image in images])
    mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
    return ((torch.from_numpy(squares) * (1 / 255) - mean) / std).permute(0, 3, 1, 2).contiguous()


class Processor:
    """A checkpoint's tokenizer, special ids, roles and picture size."""

    def __init__(self, source: CheckpointFiles, config: JanusConfig):
        path, text = source.describe("tokenizer.json"), source.read("tokenizer.json")
        if text is None:
            raise CheckpointError(f"{source.folder} has no tokenizer.json: put the model's own beside its weights.")
        try:
            self.tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{path} is not a readable tokenizer ({error}): fetch it again.") from error
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        named = source.read_json("special_tokens_map.json")
        self.bos = self._special(_text(named.get("bos_token")) or BOS, path)
        self.eos = self._special(_text(named.get("eos_token")) or EOS, path)
        self.pad = self._special(_text(named.get("pad_token")) or PAD, path)
        self.begin_of_image = self._special(BEGIN_OF_IMAGE, path)
        self.end_of_image = self._special(END_OF_IMAGE, path)
        self.image = self._special(IMAGE_TAG, path)
        # Janus-1.3B was trained with plain role names, Janus-Pro with a token for each.
        plain = source.is_1_3b or self.tokenizer.token_to_id("<|User|>") is None
        form = "{}" if plain else "<|{}|>"
        self.roles = {"user": form.format("User"), "assistant": form.format("Assistant")}
        self.image_tokens = config.vision.tokens
        self.image_size = config.vision.image_size
        settings = source.read_json("preprocessor_config.json")
        default = Normalisation()
        mean, std = settings.get("image_mean") or default.mean, settings.get("image_std") or default.std
        try:
            self.normalisation = Normalisation(tuple(map(float, mean)), tuple(map(float, std)))
            usable = len(mean) == len(std) == 3 and all(std)
        except (TypeError, ValueError):
            usable = False
        if not usable:
            raise CheckpointError(
                f"{source.describe('preprocessor_config.json')} has no usable image_mean and image_std: fetch it again."
            )

    def _special(self, token: str, path: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(f"{path} has no token {token!r}: it is the tokenizer of another model.")
        return number

    def encode(self, text: str) -> list[int]:
        """Text -> ids with BOS in front, whether or not the tokenizer's own post-processor would add it."""
        return [self.bos, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: list[int]) -> str:
        """Ids -> text without special tokens and outer white space."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def render(self, turns: list[Turn], system: str = "") -> str:
        """The conversation as the model was trained to see it, open for the assistant's next words."""
        text = f"{system}\n\n" if system else ""
        ends = {"user": "\n\n", "assistant": EOS}
        for turn in turns:
            text += f"{self.roles[turn['role']]}: {turn['content'].strip()}{ends[turn['role']]}"
        return f"{text}{self.roles['assistant']}:"

    def drawing_prompt(self, prompt: str) -> list[int]:
        """A description -> ids that end with begin_of_image. Raises InputError when it is empty."""
        if not prompt.strip():
            raise InputError("The prompt is empty: say what to draw.")
        return self.encode(self.render([{"role": "user", "content": prompt}]) + BEGIN_OF_IMAGE)

    def question_prompt(self, turns: str | list[Turn], pictures: int) -> list[int]:
        """A question, or a conversation that ends with one, about `pictures` pictures -> ids.

        Pictures stand where the text says `<image_placeholder>`, or before the first question when it says it nowhere.
        Raises InputError for an empty question or a count of placeholders that is not the count of pictures.
        """
        if isinstance(turns, str):
            turns = [{"role": "user", "content": turns}]
        if not turns or turns[-1]["role"] != "user" or not all(t["role"] in self.roles for t in turns):
            raise InputError("A conversation is turns of 'user' and 'assistant', and the last is the user's.")
        if not all(turn["content"].replace(IMAGE_TAG, "").strip() for turn in turns if turn["role"] == "user"):
            raise InputError("The question is empty: ask something about the picture.")
        places = sum(turn["content"].count(IMAGE_TAG) for turn in turns)
        if places == 0 and pictures:
            first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
            content = f"{IMAGE_TAG}\n" * pictures + turns[first]["content"]
            turns = [*turns[:first], {"role": "user", "content": content}, *turns[first + 1 :]]
        elif places != pictures:
            raise InputError(
                f"The question names {places} pictures with {IMAGE_TAG}, and {pictures} were given: make them match."
            )
        ids: list[int] = []
        for token in self.encode(self.render(turns, SYSTEM_PROMPT)):
            whole = [self.begin_of_image, *[self.image] * self.image_tokens, self.end_of_image]
            ids += whole if token == self.image else [token]
        return ids

    def pixels(self, images: list[Tensor]) -> Tensor:
        """Pictures float [H, W, 3] in 0..1, of any sizes -> pixels float32 [N, 3, S, S] for SigLIP, on the CPU."""
        pictures = [to_pil(check_images(image[None])[0]) for image in images]
        return preprocess(pictures, self.image_size, self.normalisation)


def _text(token: str | dict | None) -> str | None:
    """A special token as the JSON files spell it: a string, or an object with its content."""
    return token.get("content") if isinstance(token, dict) else token
