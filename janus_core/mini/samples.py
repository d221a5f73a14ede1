"""Training samples from the mini's world: prompts with codes, questions with answers, a little plain text."""

import numpy as np

from ..processing import Processor, Turn
from ..training.samples import Sample, Source, answered
from .codes import WorldCodes
from .matching import matching_questions, matching_questions_in_words
from .prompts import describe_scene, drawing_prompt
from .questions import ABOUT_ONE_PICTURE, QUESTION_CATEGORIES, ask, ask_again, pick_category, plain_text
from .world import render, sample_group_sizes, sample_scene

EXTRA_QUESTIONS = 4  # about the same pictures, after the first: encoding a picture costs more than a question
# The weights of the categories of questions in the first part of a run. They are look-ups of one property of one object;
# by place and in one of two pictures are the hardest.
EARLY_QUESTIONS = {"what": 1.0, "colour": 1.0, "where": 3.0, "size": 1.0, "background": 1.0, "two_pictures": 3.0}
# The weights from then on. Questions that need several look-ups come most often.
QUESTIONS = dict.fromkeys(QUESTION_CATEGORIES, 1.0) | {
    "what": 2.0,
    "colour": 2.0,
    "count": 2.0,
    "where": 2.0,
    "describe": 3.0,
}
MATCHING_SHARE = 0.6  # of the pictures and described scenes asked about, those asked whether a description matches
PLAIN_TEXT_SHARE = 0.1  # of the text samples; the others are about a scene's description
MIN_SIMPLE_SHARE = 0.2  # of simple scenes, to the end of the run


def world_sources(processor: Processor, codes: WorldCodes, *, simple_samples: int = 0) -> dict[str, Source]:
    """Sources of the three kinds of samples, none with a held-out combination.

    The first `simple_samples` of a run have simple scenes and EARLY_QUESTIONS only. Over as many more, the share of
    simple scenes falls to MIN_SIMPLE_SHARE and the questions become QUESTIONS.
    """

    def early_share(index: int) -> float:
        return min(max(2 - index / simple_samples, 0.0), 1.0) if simple_samples else 0.0

    def is_simple(rng: np.random.Generator, index: int) -> bool:
        return rng.random() < max(early_share(index), MIN_SIMPLE_SHARE)

    def weights_of(rng: np.random.Generator, index: int) -> tuple[dict[str, float], dict[str, float]]:
        """The weights of a first question, and those of the questions after it."""
        weights = EARLY_QUESTIONS if rng.random() < early_share(index) else QUESTIONS
        return weights, {name: weight for name, weight in weights.items() if name in ABOUT_ONE_PICTURE}

    def understanding(rng: np.random.Generator, index: int) -> Sample:
        if rng.random() < MATCHING_SHARE * (1 - early_share(index)):
            exchanges, _, picture = matching_questions(rng)
            return answered(processor, [turn for e in exchanges for turn in e.turns()], (picture,))
        first, later = weights_of(rng, index)
        exchange, scenes = ask(pick_category(rng, first), rng, simple=is_simple(rng, index))
        turns = exchange.turns()
        for _ in range(EXTRA_QUESTIONS):
            turns += ask_again(scenes, rng, later).turns()
        return answered(processor, turns, tuple(render(scene) for scene in scenes))

    def text(rng: np.random.Generator, index: int) -> Sample:
        if rng.random() < PLAIN_TEXT_SHARE:
            return answered(processor, plain_text(rng).turns())
        scene = sample_scene(rng, sample_group_sizes(rng))
        _, weights = weights_of(rng, index)
        if rng.random() < MATCHING_SHARE * (1 - early_share(index)):
            exchanges = matching_questions_in_words(scene, rng)
        else:
            exchanges = [ask_again((scene,), rng, weights) for _ in range(1 + EXTRA_QUESTIONS)]
        turns: list[Turn] = [turn for exchange in exchanges for turn in exchange.turns()]
        turns[0] = {"role": "user", "content": f"{describe_scene(scene, rng)}. {turns[0]['content']}"}
        return answered(processor, turns)

    def generation(rng: np.random.Generator, index: int) -> Sample:
        simple = is_simple(rng, index)
        scene = sample_scene(rng, sample_group_sizes(rng, simple=simple))
        prompt, _ = drawing_prompt(scene, rng, simple=simple)
        return Sample("generation", processor.drawing_prompt(prompt), codes=codes.of(scene))

    return {"understanding": understanding, "text": text, "generation": generation}
