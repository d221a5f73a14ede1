"""From text and pictures to token ids and pixels: tokenizer, special tokens, chat template."""

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
        self.image_tokens = config.vision.tokens
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

    def encode(self, text: str) -> list[int]:
        """Text -> ids with exactly one BOS in front, whether or not the tokenizer's post-processor adds one."""
        return [self.bos, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: list[int]) -> str:
        """Ids -> text without special tokens or surrounding white space."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def render(self, turns: list[Turn], system: str = "") -> str:
        """The chat template: the conversation as text, ending where the assistant's next turn begins."""
        text = f"{system}\n\n" if system else ""
        ends = {"user": "\n\n", "assistant": EOS}
        for turn in turns:
            text += f"{self.roles[turn['role']]}: {turn['content'].strip()}{ends[turn['role']]}"
        return f"{text}{self.roles['assistant']}:"

    def drawing_prompt(self, prompt: str) -> list[int]:
        """A description -> prompt ids that end with begin_of_image. Raises InputError when it is empty."""
        if not prompt.strip():
            raise InputError("The prompt is empty: say what to draw.")
        return self.encode(self.render([{"role": "user", "content": prompt}]) + BEGIN_OF_IMAGE)

    def question_prompt(self, turns: str | list[Turn], pictures: int) -> list[int]:
        """A question, or a conversation that ends with one, about `pictures` pictures -> prompt ids.

        Each `<image_placeholder>` in the text is the position of a picture; without any, they precede the first
        question. Raises InputError for an empty question, or when placeholders and pictures differ in number.
        """
        if isinstance(turns, str):
            turns = [{"role": "user", "content": turns}]
        if not turns or turns[-1]["role"] != "user" or not all(t["role"] in self.roles for t in turns):
            raise InputError("A conversation is turns of 'user' and 'assistant', and the last is the user's.")
        if not all(turn["content"].replace(IMAGE_TAG, "").strip() for turn in turns if turn["role"] == "user"):
            raise InputError("The question is empty: ask something about the picture.")
        placeholders = sum(turn["content"].count(IMAGE_TAG) for turn in turns)
        if placeholders == 0 and pictures:
            first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
            content = f"{IMAGE_TAG}\n" * pictures + turns[first]["content"]
            turns = [*turns[:first], {"role": "user", "content": content}, *turns[first + 1 :]]
        elif placeholders != pictures:
            raise InputError(
                f"The text names {placeholders} pictures with {IMAGE_TAG} and {pictures} were given: use one tag per picture, or none."
            )
        picture = [self.begin_of_image, *[self.image] * self.image_tokens, self.end_of_image]
        ids: list[int] = []
        for token in self.encode(self.render(turns, SYSTEM_PROMPT)):
            ids += picture if token == self.image else [token]
        return ids

    def pixels(self, images: list[Tensor]) -> Tensor:
        """Pictures float [H, W, 3] in 0..1, of any sizes -> pixels float32 [N, 3, S, S] for SigLIP, on the CPU."""
        pictures = [to_pil(check_images(image[None])[0]) for image in images]
        return preprocess(pictures, self.image_size, self.normalisation)


def _token_text(token: str | dict | None) -> str | None:
    """A special token as the JSON files spell it: a string, or an object with its content."""
    return token.get("content") if isinstance(token, dict) else token
