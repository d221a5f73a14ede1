"""Janus Text Model: a Janus as the CLIP that ComfyUI's own Generate Text takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from comfy_api.latest import io

from ..janus_core import InputError
from ..janus_core.pictures import check_images, over_white
from . import inputs
from .host import canvas
from .host.weights import HostedJanus

FRAMES = 24  # of a video for each second, of which one is read


@dataclass(frozen=True)
class Question:
    """What `TextModel.tokenize` gives to `generate`: a text, and pictures float [H, W, 3] in 0..1."""

    text: str
    pictures: list[torch.Tensor]


class TextModel:
    """The methods of ComfyUI's CLIP that write text. It has no other: Janus encodes no prompt for a diffusion model."""

    def __init__(self, janus: HostedJanus):
        self._janus = janus

    @property
    def patcher(self) -> Any:
        """The patcher of the largest part, for nodes that ask where a CLIP is."""
        return self._janus.language_patcher

    def tokenize(
        self,
        text: str,
        return_word_ids: bool = False,
        *,
        image: torch.Tensor | None = None,
        images: Iterable[torch.Tensor] = (),
        video: torch.Tensor | None = None,
        skip_template: bool = False,
        min_length: int = 1,
        thinking: bool = False,
        **others: Any,
    ) -> Question:
        """A question about pictures, each [N, H, W, 3], and one frame a second of a video. Tokens are made in `generate`.

        `min_length` is for encoders, and `thinking` asks for it "if the model supports it"; Janus does neither.
        Raises InputError for what Janus cannot read, such as audio.
        """
        if skip_template:
            raise InputError("Janus answers in its own chat template only: turn use_default_template on.")
        if unknown := [name for name, value in others.items() if value is not None and value is not False]:
            raise InputError(f"Janus reads text, pictures and video frames, but no {unknown[0]}: disconnect that.")
        batches = [batch for batch in (image, *images, None if video is None else video[::FRAMES]) if batch is not None]
        return Question(text, [picture for batch in batches for picture in check_images(over_white(batch))])

    def generate(
        self,
        tokens: Question,
        do_sample: bool = True,
        max_length: int = 256,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        presence_penalty: float = 0.0,
    ) -> list[int]:
        """The ids of an answer of up to `max_length` tokens: the likeliest ones, or drawn where `do_sample`.

        The words are shown on the node that runs. Raises InputError as `Janus.answer`, and when the user interrupts.
        """
        core = self._janus.ready(
            self._janus.core.answering_need(tokens.text, len(tokens.pictures), max_new_tokens=max_length)
        )
        sampling = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty or 0.0,
            "seed": seed or 0,
        }
        report, ids = canvas.answer_progress(core, canvas.send_text), []

        def keep(step: int, total: int, rows: list[list[int]]) -> None:
            ids[:] = rows[0]
            report(step, total, rows)

        core.answer(
            tokens.text, tokens.pictures, max_new_tokens=max_length, progress=keep, **(sampling if do_sample else {})
        )
        return ids

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """Ids of an answer, which has no special tokens, as text."""
        return self._janus.core.processor.decode(token_ids)

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"A Janus Text Model writes text and has no {name!r}: connect it to Generate Text. A prompt for a diffusion model "
            "is encoded by that model's own CLIP, and a LoRA goes into Janus LoRA.",
            name=name,
            obj=self,
        )


class JanusTextModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusTextModel",
            display_name="Janus Text Model",
            category="Janus",
            description="Makes a Janus usable in ComfyUI's own Generate Text, which newer versions have. It cannot encode a "
            "prompt for a diffusion model.",
            **inputs.search_aliases("generate text", "llm", "clip", "vlm", "text generation"),
            inputs=[inputs.MODEL],
            outputs=[
                io.Clip.Output(
                    display_name="clip", tooltip="For Generate Text. Other nodes that take a CLIP refuse it."
                )
            ],
        )

    @classmethod
    @inputs.checked
    def execute(cls, janus: HostedJanus) -> io.NodeOutput:
        return io.NodeOutput(TextModel(janus))
