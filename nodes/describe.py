"""Nodes that answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from comfy_api.latest import io

from ..janus_core import Janus
from . import host
from .load import JanusType


class JanusDescribeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusDescribeImage",
            display_name="Janus Describe Image",
            category="Janus",
            description="Answers a question about each picture. Wire the text to Preview as Text, or into a prompt.",
            **host.search_aliases(
                "vqa", "caption", "image to text", "question", "interrogate", "understanding", "janus pro"
            ),
            inputs=[
                JanusType.Input("janus", tooltip="The model, from Load Janus."),
                io.Image.Input(
                    "image",
                    tooltip="One or more pictures of any size; each gets its own answer. See-through parts are seen "
                    "as white.",
                ),
                io.String.Input(
                    "question",
                    multiline=True,
                    dynamic_prompts=True,
                    default="Describe the picture.",
                    tooltip="What you want to know: what is in it, which colours, how many, what a text says.",
                ),
                io.Int.Input(
                    "max_tokens",
                    default=256,
                    min=1,
                    max=8192,
                    tooltip="The longest answer allowed, in tokens; a token is about three quarters of a word.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="0 gives the surest answer, the same each time. More gives freer words, which change with "
                    "the seed.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,  # else every run would ask again what is already answered
                    tooltip="Varies the words when the temperature is above 0; at 0 it changes nothing. The second "
                    "picture of a batch has seed + 1, and so on.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="text",
                    is_output_list=True,
                    tooltip="One answer for each picture, in their order.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        janus: host.HostedJanus,
        image: torch.Tensor,
        question: str,
        max_tokens: int,
        temperature: float,
        seed: int,
    ) -> io.NodeOutput:
        core = janus.to_answer(question, max_tokens)
        answers: list[str] = []
        for i, picture in enumerate(over_white(image)):
            report = streaming(core, cls.hidden.unique_id, host.progress(i, len(image)), partial(_after, answers))
            answer = core.answer(
                question,
                [picture],
                max_new_tokens=max_tokens,
                temperature=temperature,
                seed=(seed + i) % 2**64,
                progress=report,
            )
            answers.append(answer)
        return io.NodeOutput(answers, ui={"text": answers})


def _after(answers: list[str], answer: str) -> dict[str, list[str]]:
    return {"text": [*answers, answer]}


def streaming(core: Janus, node: str, report: host.Progress, shown: Callable[[str], dict[str, list]]) -> host.Progress:
    """`report` for one answer, which also tells the canvas what the node shows of the words so far."""

    def stream(step: int, total: int, ids: list[list[int]]) -> None:
        report(step, total, ids)
        host.show(node, shown(core.processor.decode(ids[0])))

    return stream


def over_white(images: torch.Tensor) -> torch.Tensor:
    """Pictures [N, H, W, 4] -> [N, H, W, 3], laid over white; others as they are."""
    if images.shape[-1] != 4:
        return images
    alpha = images[..., 3:]
    return images[..., :3] * alpha + (1 - alpha)
