"""Janus Check, Janus Pick Best and Janus Draw Best: what the model itself thinks of pictures, and steers by it."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..janus_core import ImageTokens, InputError
from ..janus_core.drawing_best import draw_best, drawing_best_need
from ..janus_core.judging import YES, best_first, chance_of_yes, judging_need, question_about
from ..janus_core.pictures import check_images, over_white
from . import inputs
from .host import canvas
from .host.weights import HostedJanus
from .preview import preview_of
from .repaint import drawing_settings
from .seeds import thumbnails
from .types import SamplingSettings, SamplingType, TokensType

KINDS = ("description", "question")


def judged(janus: HostedJanus, image: torch.Tensor, question: str) -> torch.Tensor:
    """The probability of a yes for each picture of an IMAGE."""
    pictures = check_images(over_white(image))
    core = janus.ready(judging_need(janus.core, question, len(pictures)))
    return chance_of_yes(core, pictures, question, progress=canvas.count_progress())


class JanusCheck(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusCheck",
            display_name="Janus Check",
            category="Janus",
            description="Looks at a picture and says yes or no: does it match a description, or what is the answer to a "
            "question? Connect yes to a switch to decide what happens next.",
            **inputs.search_aliases("verify", "condition", "boolean", "yes no", "score", "judge", "filter"),
            inputs=[
                inputs.MODEL,
                io.Image.Input(
                    "image",
                    tooltip="One or more pictures of any size; each is judged alone. See-through parts are seen as white.",
                ),
                inputs.text_box(
                    "prompt",
                    placeholder="What the picture should show, or a question",
                    tooltip="What the picture should show, such as the prompt it was drawn from; or a question that yes or "
                    "no answers.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default=KINDS[0],
                    tooltip="What the prompt is: a description that the picture should match, or a question, such as: is "
                    "anybody in the picture?",
                ),
            ],
            outputs=[
                io.Boolean.Output(
                    display_name="yes",
                    is_output_list=True,
                    tooltip="Whether the answer is yes; one for each picture, in their order.",
                ),
                io.Float.Output(
                    display_name="probability",
                    is_output_list=True,
                    tooltip="How sure that is: 1 is a sure yes, 0 a sure no; one for each picture.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    @inputs.checked
    def execute(cls, janus: HostedJanus, image: torch.Tensor, prompt: str, kind: str) -> io.NodeOutput:
        chances = judged(janus, image, question_about(prompt) if kind == KINDS[0] else prompt).tolist()
        answers = [chance > YES for chance in chances]
        texts = [f"{'yes' if yes else 'no'}, {chance:.2f}" for yes, chance in zip(answers, chances, strict=True)]
        return io.NodeOutput(answers, chances, ui={"text": texts})


class JanusPickBest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusPickBest",
            display_name="Janus Pick Best",
            category="Janus",
            description="Sorts pictures by how well they match a description, as the model sees it, and keeps the best.",
            **inputs.search_aliases("rank", "score", "best of", "select", "filter", "sort"),
            **inputs.shown_from_cache(),
            inputs=[
                inputs.MODEL,
                io.Image.Input("image", tooltip="The pictures to choose from, drawn by Janus or by anything else."),
                inputs.text_box(
                    "prompt",
                    placeholder="What the picture should show",
                    tooltip="What the pictures should show: usually the prompt that they were drawn from.",
                ),
                io.Int.Input("keep", default=1, min=1, max=4096, tooltip="How many of them to keep, the best first."),
                TokensType.Input(
                    "tokens",
                    optional=True,
                    tooltip="The tokens of the same pictures, if there are any: those of the best are kept too.",
                ),
            ],
            # Not "image" and "tokens": an output may not have the id of an input.
            outputs=[
                io.Image.Output("best_image", display_name="image", tooltip="The best pictures, the best one first."),
                TokensType.Output(
                    "best_tokens", display_name="tokens", tooltip="Their tokens, if tokens are connected."
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="How surely each of them matches, from 0 to 1, in their order.",
                ),
            ],
        )

    @classmethod
    @inputs.checked
    def execute(
        cls, janus: HostedJanus, image: torch.Tensor, prompt: str, keep: int, tokens: ImageTokens | None = None
    ) -> io.NodeOutput:
        if tokens is not None and len(tokens) != len(image):
            raise InputError(f"There are {len(image)} pictures and tokens of {len(tokens)}: connect as many of each.")
        scores = judged(janus, image, question_about(prompt))
        order = best_first(scores, len(scores))
        best = order[:keep]
        notes = [f"{scores[i]:.2f}" + (", left out" if place >= keep else "") for place, i in enumerate(order)]
        return io.NodeOutput(
            image[best],
            None if tokens is None else ImageTokens(tokens.ids[best], tokens.grid, tokens.codebook),
            scores[best].tolist(),
            ui={"janus_pictures": thumbnails(image[order], notes=notes)},
        )


class JanusDrawBest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="JanusDrawBest",
            display_name="Janus Draw Best",
            category="Janus",
            description="Draws several candidates of a picture and keeps the one that matches the prompt best, as the model "
            "itself sees it. Half way it drops those that can no longer match, which saves time.",
            **inputs.search_aliases(
                "best of", "text to image", "txt2img", "candidates", "retry", "verify", "janus pro"
            ),
            **inputs.shown_from_cache(),
            inputs=[
                inputs.MODEL,
                inputs.text_box(
                    "prompt",
                    placeholder="What to draw",
                    tooltip="What to draw, in plain sentences. Objects, colours, places and style all help.",
                ),
                inputs.seed(
                    control_after_generate=True,
                    tooltip="The seed of the first candidate; the second has seed + 1, and so on through all tries. Under "
                    "each picture is the seed with which Janus Text-to-Image draws it too.",
                ),
                io.Int.Input(
                    "candidates",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="How many pictures to begin in each try. A quarter of them is finished.",
                ),
                io.Int.Input(
                    "tries",
                    default=2,
                    min=1,
                    max=16,
                    tooltip="How often to try at most. It stops as soon as the model says that a picture matches.",
                ),
                inputs.CFG,
                inputs.DRAWING_TEMPERATURE,
                SamplingType.Input(
                    "sampling",
                    optional=True,
                    tooltip="Finer settings, from Janus Sampling. Its sampler and window do not count here.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The best picture."),
                TokensType.Output(display_name="tokens", tooltip="The same picture as tokens."),
                io.Float.Output(display_name="score", tooltip="How surely it matches the prompt, from 0 to 1."),
            ],
        )

    @classmethod
    @inputs.checked
    def execute(
        cls,
        janus: HostedJanus,
        prompt: str,
        *,
        seed: int,
        candidates: int,
        tries: int,
        cfg: float,
        temperature: float,
        sampling: SamplingSettings | None = None,
    ) -> io.NodeOutput:
        settings = drawing_settings(cfg, temperature, sampling)
        preview = preview_of(janus)
        best = draw_best(
            janus.ready(drawing_best_need(janus.core, prompt, candidates=candidates, **settings)),
            prompt,
            seed=seed,
            candidates=candidates,
            tries=tries,
            progress=lambda attempt: canvas.progress(attempt, tries, preview=preview),
            **settings,
        )
        tried = sorted(best.candidates, key=lambda candidate: (not candidate.finished, -candidate.score))
        pictures = torch.stack([candidate.picture.cpu() for candidate in tried])
        notes = [f"{candidate.score:.2f}" + ("" if candidate.finished else ", dropped") for candidate in tried]
        shown = thumbnails(pictures, seeds=[candidate.seed for candidate in tried], notes=notes)
        return io.NodeOutput(janus.decode(best.tokens), best.tokens, best.score, ui={"janus_pictures": shown})
