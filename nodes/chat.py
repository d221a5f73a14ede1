"""Janus Chat: one turn of a conversation; its history output is the next turn's input."""

from typing import Any

import torch
from comfy_api.latest import io

from ..janus_core.conversation import Conversation, check_room, spread_frames
from ..janus_core.pictures import check_images, over_white
from ..janus_core.processing import IMAGE_TAG, Turn, count_tags
from . import inputs
from .host import canvas, folders
from .host.weights import HostedJanus
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
                io.String.Input(
                    "message",
                    multiline=True,
                    dynamic_prompts=True,
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
            ],
            outputs=[
                io.String.Output("answer", display_name="answer", tooltip="What the model said to this message."),
                HistoryType.Output(
                    "conversation", display_name="history", tooltip="The conversation with this turn, for the next one."
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
    ) -> io.NodeOutput:
        shown = [] if image is None else list(check_images(over_white(image)))
        before = (history or Conversation()).without_oldest(drop_turns)
        if frames and shown:
            tokens = lambda count: before.ask(message, shown[:count]).tokens(janus.core)
            shown = spread_frames(janus.core, shown, most=frames, tokens=tokens, new=max_tokens)
        conversation = before.ask(message, shown)
        check_room(janus.core, conversation, max_tokens, setting="drop_turns")
        turns, pictures = list(conversation.turns), list(conversation.pictures)
        core = janus.ready(janus.core.answering_need(turns, len(pictures), max_new_tokens=max_tokens))
        prompt_tokens = conversation.tokens(core)

        def node_output(answer: str) -> dict[str, list]:
            return {
                "janus_turns": [_readable(turn) for turn in conversation.with_answer(answer).turns],
                "janus_context": [prompt_tokens + len(core.processor.plain(answer)), core.context],
            }

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
        return io.NodeOutput(answer, conversation.with_answer(answer), ui=ui)


def _readable(turn: Turn) -> dict[str, Any]:
    """A turn without image tags, and how many pictures it has."""
    pictures = count_tags([turn])
    content = turn["content"].replace(IMAGE_TAG, "") if pictures else turn["content"]
    return {**turn, "content": content.strip(), "pictures": pictures}
