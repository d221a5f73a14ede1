"""What `bench` measures: an engine draws and answers. Ours is here; tests/bench has others, of the same interface."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from ..generation.cpu_kernels import prepacked
from ..generation.image import Drawing, draw_codes
from ..generation.recorder import draw_codes_graphed, graphable, words_graphed
from ..generation.sampling import Sampling
from ..generation.text import answer_ids, embed_prompts, words
from ..model.janus import JanusModel

# The token ids with a meaning; `image` stands for one of a picture's embeddings. No engine stops at `eos`.
SPECIAL = {"bos": 0, "eos": 1, "pad": 2, "begin_of_image": 3, "image": 9}


class Engine(Protocol):
    """An implementation of Janus. `token` is called for each new token, when its logits are there."""

    name: str

    def draw(self, prompt: list[int], *, steps: int, count: int, token: Callable[[], None]) -> Tensor:
        """The codes, long [count, steps], of pictures of one prompt at CFG weight 5. `prompt` ends with begin_of_image."""
        ...

    def answer(self, prompt: list[int], pixels: Tensor, *, count: int, token: Callable[[], None]) -> None:
        """Answer with `count` tokens, greedily, about one picture, `pixels` [1, 3, side, side]."""
        ...


class Ours:
    """This package's engine. `kernels` is the module of Triton kernels to draw with, if any."""

    def __init__(
        self, model: JanusModel, device: torch.device, *, name: str = "ours", kernels: ModuleType | None = None
    ):
        self.model, self.device, self.name, self.kernels = model, device, name, kernels
        self.graphed = graphable([model.gen_embed, model.gen_head, model.language_model], lambda layer: True)

    def draw(self, prompt: list[int], *, steps: int, count: int, token: Callable[[], None]) -> Tensor:
        draw = partial(draw_codes_graphed, kernels=self.kernels) if self.graphed else draw_codes
        with prepacked(self.model.decoding_parts, 2 * count, self.device):
            return draw(self.model, Drawing(prompt, SPECIAL["pad"], steps, count), self.device, lambda *_: token())

    @torch.no_grad()
    def answer(self, prompt: list[int], pixels: Tensor, *, count: int, token: Callable[[], None]) -> None:
        features = self.model.embed_images(pixels)
        start = embed_prompts(self.model, [prompt], SPECIAL["image"], SPECIAL["pad"], features, self.device)
        drawn = words_graphed if self.graphed else words
        with prepacked([self.model.language_model], 1, self.device):
            answer_ids(self.model, *start, -1, count, 0, Sampling(0.0), lambda *_: token(), drawn)
