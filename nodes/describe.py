"""Janus Describe Image: an answer to one question for each picture of a batch."""

import torch
from comfy_api.latest import io

from ..janus_core.conversation import spread_frames
from ..janus_core.pictures import check_images, over_white
from . import inputs
from .host import canvas, folders
from .host.weights import HostedJanus
from .seeds import seed_of


class JanusDescribeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusDescribeImage",
            display_name="Janus Describe Image",
            category="Janus",
            description="Answers a question about each picture. Wire the text to Preview as Text, or into a prompt.",
            **inputs.search_aliases(
                "vqa", "caption", "image to text", "question", "interrogate", "understanding", "janus pro"
            ),
            inputs=[
                inputs.MODEL,
                io.Image.Input(
                    "image",
                    tooltip="One or more pictures of any size; each gets its own answer. See-through parts are seen "
                    "as white.",
                ),
                inputs.text_box(
                    "question",
                    default="Describe the picture.",
                    tooltip="What you want to know: what is in it, which colours, how many, what a text says.",
                ),
                inputs.MAX_TOKENS,
                inputs.ANSWER_TEMPERATURE,
                inputs.seed(
                    control_after_generate=False,  # a new seed would repeat every answer
                    tooltip="Varies the words when the temperature is above 0; at 0 it changes nothing. The second "
                    "picture of a batch has seed + 1, and so on.",
                ),
                inputs.FRAMES,
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
    @inputs.checked
    def execute(
        cls,
        janus: HostedJanus,
        image: torch.Tensor,
        question: str,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        frames: int = 0,
    ) -> io.NodeOutput:
        asked = [[picture] for picture in check_images(over_white(image))]
        if frames:  # one answer about all of them
            tokens = lambda count: len(janus.core.processor.question_prompt(question, count))
            together = [picture for [picture] in asked]
            asked = [spread_frames(janus.core, together, most=frames, tokens=tokens, new=max_tokens)]
        core = janus.ready(janus.core.answering_need(question, len(asked[0]), max_new_tokens=max_tokens))
        answers: list[str] = []

        def show(answer: str) -> None:
            canvas.show_output(cls.hidden.unique_id, {"text": [*answers, answer]})

        for i, pictures in enumerate(asked):
            answers.append(
                core.answer(
                    question,
                    pictures,
                    max_new_tokens=max_tokens,
                    temperature=temperature,
                    seed=seed_of(seed, i),
                    progress=canvas.answer_progress(core, show, run=i, runs=len(asked)),
                )
            )
        return io.NodeOutput(answers, ui={"text": answers, "janus_files": folders.answer_files(answers)})
