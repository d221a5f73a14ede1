"""Look at a picture of one's own and draw it again in the same sequence, as Janus-Pro-R1 was trained to (Pan et al. 2025).

1. Prompt and picture, as it is read; a question; the answer begins with Yes or No, and gives reasons.
2. Prompt and picture, as it is drawn; question and answer; a second picture follows. The unconditional row has pads in place
   of the prompt's words only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .dialects import Review
from .errors import InputError
from .generation import text
from .generation.codes import FEATURE, HIDDEN, Drawing, unconditional
from .generation.image import Progress
from .generation.sampling import MAX_SEED, Sampling, draw_tokens, seed_keys
from .generation.self_check import decide
from .pictures import from_uint8
from .pipeline import Janus
from .tokens import ImageTokens, picked

MAX_TOKENS = 80  # of an answer, as in the authors' code
SECOND_SALT = 0x7365_636F_6E64  # so that a second picture has other noise than the first


@dataclass(frozen=True)
class Verdict:
    """What a model says of its picture: whether it matches, how likely it found that (0 to 1), and its answer.

    `ids` are without the end of the sentence; `ended` says whether there was one.
    """

    yes: bool
    probability: float
    ids: list[int]
    text: str
    ended: bool


@torch.no_grad()
def review(janus: Janus, prompt: str, tokens: ImageTokens, *, seed: int = 0, temperature: float = 1.0) -> list[Verdict]:
    """What the model says of each picture drawn for `prompt`; the answer about picture i has seed + i.

    Raises InputError for weights that were not trained to do this, an empty or too long prompt, and another model's tokens.
    """
    how, processor = _how(janus), janus.processor
    yes, no = (processor.plain(word)[-1] for word in ("Yes", "No"))
    ids = [*processor.drawing_prompt(prompt), *[processor.image] * processor.image_tokens, *_question(janus, how)]
    verdicts = []
    for i, picture in enumerate(_as_saved(janus, tokens)):
        with janus.working("reading a picture", "use a smaller dtype", [janus.model.language_model], rows=1):
            seen, mask = janus.embed_prompts([ids], [picture])
            execution = decide(janus.execution, janus.model.language_model.model, seen)
            settings = {"seed": (seed + i) & MAX_SEED, "sampling": Sampling(temperature)}
            logits = text.AnswerStep(janus.model, seen, mask, execution, new=1, **settings).logits[:, [yes, no]]
            keys = seed_keys(settings["seed"], 1, janus.device)
            first = [yes, no][int(draw_tokens(logits, settings["sampling"], keys, 0))]
            seen, mask = janus.embed_prompts([[*ids, first]], [picture])
            new = MAX_TOKENS - 1
            [more] = text.answer_ids(
                janus.model, seen, mask, execution, eos=processor.eos, max_new_tokens=new, **settings
            )
        answer = [first, *more]
        chance = float(logits.float().softmax(dim=-1)[0, 0])
        verdicts.append(Verdict(first == yes, chance, answer, processor.decode(answer), len(more) < new))
    return verdicts


def second_drawing(janus: Janus, prompt: str, tokens: ImageTokens, verdicts: list[Verdict], **settings: Any) -> Drawing:
    """The drawing of a second picture after each of `tokens` and its verdict. `settings` are those of `Janus.drawing_of`.

    Raises InputError as `review` and `Janus.drawing_of` do.
    """
    how, processor = _how(janus), janus.processor
    codes = janus.encode(_as_saved(janus, tokens))
    first = processor.drawing_prompt(prompt)
    question, again = _question(janus, how), [*processor.plain(how.again), processor.begin_of_image]
    place = [FEATURE] * codes.ids.shape[1]
    # The authors hide the end of the answer, which keeps its position, and add another that is seen.
    tails = [
        [*place, *question, *verdict.ids, *([HIDDEN] if verdict.ended else []), processor.eos, *again]
        for verdict in verdicts
    ]
    drawing = janus.drawing_of(
        prompt,
        len(tokens),
        salts=(SECOND_SALT,),
        prompts=tuple(first + tail for tail in tails),
        unconditional=tuple(unconditional(first, processor.pad) + tail for tail in tails),
        **settings,
    )
    features = janus.model.embed_codes(codes.ids.to(janus.device)).flatten(0, 1)
    return replace(drawing, features=features.repeat(drawing.guides, 1))


def redraw(
    janus: Janus,
    prompt: str,
    tokens: ImageTokens,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[ImageTokens, list[Verdict]]:
    """Pictures drawn for `prompt`, each that the model says No to drawn a second time, and what it said of each.

    A second picture i has seed + i, as the first has with `Janus.generate`. Raises as `review` and `Janus.generate` do.
    """
    verdicts, ids = review(janus, prompt, tokens, seed=seed), tokens.ids.clone()
    for i, verdict in enumerate(verdicts):
        if not verdict.yes:
            own = (seed + i) & MAX_SEED
            drawing = second_drawing(janus, prompt, picked(tokens, i), [verdict], seed=own, **settings)
            ids[i] = janus.draw(drawing, progress).ids[0]
    return replace(tokens, ids=ids), verdicts


def _how(janus: Janus) -> Review:
    how = janus.processor.dialect.review
    if how is None:
        raise InputError(
            "These weights were not trained to look at their own pictures, and those of Janus-Pro-R1-7B were: choose it in "
            "Load Janus, or its dialect if this is a copy of it."
        )
    return how


def _question(janus: Janus, how: Review) -> list[int]:
    return [janus.processor.end_of_image, *janus.processor.plain(how.question)]


def _as_saved(janus: Janus, tokens: ImageTokens) -> Tensor:
    """The pictures with the 8 bits of a file, cut and not rounded, as the authors have them before they read them."""
    return from_uint8((janus.decode(tokens) * 255).to(torch.uint8))
