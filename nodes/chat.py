"""Janus Chat: one turn of a conversation; its history output is the next turn's input."""

from typing import Any

import torch
from comfy_api.latest import io

from ..janus_core.chat_drawing import drawing_in, reading_need
from ..janus_core.conversation import Conversation, check_room, spread_frames
from ..janus_core.pictures import check_images, over_white
from ..janus_core.processing import IMAGE_TAG, count_tags
from . import inputs
from .host import canvas, folders
from .host.weights import HostedJanus
from .seeds import picture_files
from .types import HistoryType


class JanusChat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusChat",
            display_name="Janus Chat",
            category="Janus",
            description="Sends a message to the model, with pictures if you like, and shows the conversation so far. Press "
            "Reply for the next turn: it adds a Janus Chat that knows all that was said before.",
            **inputs.search_aliases("vqa", "conversation", "llm", "question", "janus pro"),
            inputs=[
                inputs.MODEL,
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Pictures this message is about. Later turns remember them; connect only new ones there.",
                ),
                HistoryType.Input(
                    "history",
                    optional=True,
                    tooltip="The conversation before this message, from another Janus Chat. Without it a new one begins.",
                ),
                inputs.text_box(
                    "message",
                    placeholder="Your message",
                    tooltip="What you say or ask. It can refer to anything said before.",
                ),
                inputs.MAX_TOKENS,
                inputs.ANSWER_TEMPERATURE,
                inputs.seed(
                    control_after_generate=False,  # a new seed would repeat every earlier turn
                    tooltip="Varies the words when the temperature is above 0; at 0 it changes nothing.",
                ),
                io.Int.Input(
                    "drop_turns",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Leave out this many of the oldest turns, with their pictures, when the conversation has grown "
                    "too long for the model.",
                ),
                inputs.FRAMES,
                io.Boolean.Input(
                    "draw",
                    default=False,
                    optional=True,
                    tooltip="Reply with a picture. It follows all that was said and shown, and is drawn with the model's own "
                    "cfg and temperature. Later turns can speak about it.",
                ),
            ],
            outputs=[
                io.String.Output("answer", display_name="answer", tooltip="What the model said to this message."),
                HistoryType.Output(
                    "conversation", display_name="history", tooltip="The conversation with this turn, for the next one."
                ),
                io.Image.Output(
                    "drawn",
                    display_name="image",
                    tooltip="The picture, if the reply was drawn. If not, nodes behind this output do not run.",
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
        message: str,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        drop_turns: int,
        image: torch.Tensor | None = None,
        history: Conversation | None = None,
        frames: int = 0,
        draw: bool = False,
    ) -> io.NodeOutput:
        given = [] if image is None else list(check_images(over_white(image)))
        before = (history or Conversation()).without_oldest(drop_turns)
        if frames and given:
            tokens = lambda count: before.ask(message, given[:count]).tokens(janus.core)
            given = spread_frames(janus.core, given, most=frames, tokens=tokens, new=max_tokens)
        conversation = before.ask(message, given)
        if draw:
            return cls._draw(janus, conversation, seed)
        check_room(janus.core, conversation, max_tokens, setting="drop_turns")
        turns, pictures = list(conversation.turns), list(conversation.pictures)
        core = janus.ready(janus.core.answering_need(turns, len(pictures), max_new_tokens=max_tokens))
        prompt_tokens = conversation.tokens(core)

        shown = _readable(conversation)

        def node_output(answer: str) -> dict[str, list]:
            said = {"role": "assistant", "content": answer.strip(), "pictures": 0}
            used = prompt_tokens + len(core.processor.plain(answer))
            return {"janus_turns": [*shown, said], "janus_context": [used, core.context]}

        answer = core.answer(
            turns,
            pictures,
            max_new_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            progress=canvas.answer_progress(
                core, lambda answer: canvas.show_output(cls.hidden.unique_id, node_output(answer))
            ),
        )
        ui = node_output(answer) | {"janus_files": folders.answer_files([answer])}
        return io.NodeOutput(answer, conversation.with_answer(answer), canvas.NOTHING, ui=ui)

    @classmethod
    def _draw(cls, janus: HostedJanus, conversation: Conversation, seed: int) -> io.NodeOutput:
        core = janus.ready(reading_need(janus.core, conversation))
        drawing = drawing_in(core, conversation, seed=seed)
        tokens = janus.ready(core.need_of(drawing)).draw(drawing, canvas.progress())
        picture = janus.decode(tokens)
        replied = conversation.with_picture(picture[0])
        used = [drawing.length + drawing.steps, core.context]
        return io.NodeOutput("", replied, picture, ui={"janus_turns": _readable(replied), "janus_context": used})


def _readable(conversation: Conversation) -> list[dict[str, Any]]:
    """The turns without image tags, with how many pictures each has; a drawn one with the file of its picture."""
    turns, pictures = [], iter(conversation.pictures)
    for turn in conversation.turns:
        own = [next(pictures) for _ in range(count_tags([turn]))]
        content = turn["content"].replace(IMAGE_TAG, "") if own else turn["content"]
        files = {"image": picture_files(own[0][None])[0]} if turn["role"] == "assistant" and own else {}
        turns.append({"role": turn["role"], "content": content.strip(), "pictures": len(own), **files})
    return turns
