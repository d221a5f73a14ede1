"""What `bench` measures: an engine draws and answers. Ours is here; tests/bench has others, of the same interface."""

from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from ..generation.codes import Drawing
from ..generation.cpu_kernels import fast_layers
from ..generation.execution import Execution
from ..generation.image import draw_codes
from ..generation.sampling import Sampling
from ..generation.text import answer_ids, embed_prompts
from ..model.janus import JanusModel

# Special token ids; `image` is the placeholder of one embedding of a picture. No engine stops at `eos`.
SPECIAL = {"bos": 0, "eos": 1, "pad": 2, "begin_of_image": 3, "image": 9}


class Engine(Protocol):
    """An implementation of Janus. `token` is called for each new token, once its logits are computed."""

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
        self.model, self.name, self.execution = model, name, Execution(device, kernels=kernels)

    def draw(self, prompt: list[int], *, steps: int, count: int, token: Callable[[], None]) -> Tensor:
        drawing = Drawing(prompt=prompt, pad=SPECIAL["pad"], steps=steps, count=count)
        with fast_layers(self.model.drawing_parts, rows=drawing.rows, execution=self.execution):
            return draw_codes(self.model, drawing, self.execution, lambda *_: token())

    @torch.no_grad()
    def answer(self, prompt: list[int], pixels: Tensor, *, count: int, token: Callable[[], None]) -> None:
        embeds, mask = embed_prompts(
            self.model,
            [prompt],
            image_id=SPECIAL["image"],
            pad=SPECIAL["pad"],
            features=self.model.embed_images(pixels),
            device=self.execution.device,
        )
        with fast_layers([self.model.language_model], rows=1, execution=self.execution):
            settings = {"eos": -1, "max_new_tokens": count, "sampling": Sampling(0.0)}
            answer_ids(self.model, embeds, mask, self.execution, **settings, progress=lambda *_: token())
