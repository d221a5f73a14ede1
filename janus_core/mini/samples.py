"""The mini's world as training samples: prompts with picture codes, questions with answers, a little plain text."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from ..processing import Processor, Turn
from ..training.samples import Sample, Source, answered
from .captions import (
    ABOUT_ONE,
    QUESTION_KINDS,
    Exchange,
    describe_one,
    draw_groups,
    drawing_prompt,
    plain_text,
    scene_fits,
    survey,
    survey_of_two,
    told,
    which_picture,
)
from .world import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, Thing, render, sample_scene

Encode = Callable[[np.ndarray], Tensor]  # uint8 [N, H, W, 3] -> codes [N, h * w]
GRID = 6
MORE_QUESTIONS = 4  # about the same pictures, after the first: seeing a picture costs more than a question
# What is asked about before everything else, and how often: how one thing among others looks, where looking one up by its
# place, or in one of two pictures, is the hardest.
AT_FIRST = {"what": 1.0, "colour": 1.0, "where": 3.0, "size": 1.0, "background": 1.0, "two_pictures": 3.0}
# How often each kind is asked from then on: most often what takes several such looks.
OFTEN = dict.fromkeys(QUESTION_KINDS, 1.0) | {"what": 2.0, "colour": 2.0, "count": 2.0, "where": 2.0, "describe": 3.0}
SURVEYS = 0.2  # share of these that ask about all objects at once: long answers, which drown short ones
PLAIN = 0.1  # share of the text that is not about a scene told in words
LEAST_SIMPLE = 0.2  # share of simple scenes that stays to the end


class WorldCodes:
    """The codes of any scene, put together from those of each object on each ground.

    A cell is two by two codes, and a tokenizer trained on this world gives a cell the same codes wherever it stands;
    encoding every picture anew would cost more than learning from it. `agreement` measures that it is so.
    """

    def __init__(self, encode: Encode):
        self.encode = encode
        looks = [(b, s, c, z) for b in BACKGROUNDS for s in SHAPES for c in COLOURS for z in SIZES]
        middle = 4
        scenes = [Scene(b, (Thing(s, c, z, middle),)) for b, s, c, z in looks]
        grids = self._encode(scenes)
        self.cells = {look: grid[2:4, 2:4] for look, grid in zip(looks, grids, strict=True)}
        grounds = self._encode([Scene(b, ()) for b in BACKGROUNDS])
        self.empty: dict[str, np.ndarray] = dict(zip(BACKGROUNDS, grounds, strict=True))

    def _encode(self, scenes: list[Scene]) -> np.ndarray:
        codes = [
            self.encode(np.stack([render(scene) for scene in scenes[i : i + 16]])) for i in range(0, len(scenes), 16)
        ]
        return np.concatenate([c.cpu().numpy() for c in codes]).reshape(-1, GRID, GRID)

    def of(self, scene: Scene) -> np.ndarray:
        """The scene's codes, [36]."""
        grid = self.empty[scene.background].copy()
        for thing in scene.things:
            line, column = divmod(thing.cell, 3)
            cell = self.cells[scene.background, thing.shape, thing.colour, thing.size]
            grid[2 * line : 2 * line + 2, 2 * column : 2 * column + 2] = cell
        return grid.reshape(-1)

    def agreement(self, scenes: list[Scene]) -> float:
        """The share of codes that equal those of the whole picture encoded at once."""
        return float((self._encode(scenes).reshape(len(scenes), -1) == np.stack([self.of(s) for s in scenes])).mean())


def ask(
    kind: str, rng: np.random.Generator, held_out: bool = False, simple: bool = False
) -> tuple[Exchange, tuple[Scene, ...]]:
    """A question of one of QUESTION_KINDS with the scenes it is about."""
    while True:
        groups = (1,) if kind == "what" and rng.random() < 0.3 else draw_groups(rng, simple)
        scene = sample_scene(rng, groups, held_out)
        if kind == "two_pictures":
            other = sample_scene(rng, draw_groups(rng, simple))
            exchange = which_picture(scene, other, rng)
            if exchange:
                return exchange, (scene, other)
        elif scene_fits(kind, scene):
            return ABOUT_ONE[kind](scene, rng), (scene,)


def pick_kind(rng: np.random.Generator, kinds: dict[str, float]) -> str:
    """One of the kinds, each as often as its number says."""
    weights = np.array(list(kinds.values()))
    return list(kinds)[int(rng.choice(len(kinds), p=weights / weights.sum()))]


def ask_again(scenes: tuple[Scene, ...], rng: np.random.Generator, kinds: dict[str, float]) -> Exchange:
    """One more question, of `kinds` about one picture, about scenes that have been asked about."""
    while True:
        kind = pick_kind(rng, kinds)
        if len(scenes) == 2:
            form = rng.random()
            if form < SURVEYS:
                exchange = survey_of_two(scenes, rng)
            else:
                exchange = describe_one(scenes, rng) if form < 0.7 else which_picture(*scenes, rng)
            if exchange:
                return exchange
        elif rng.random() < SURVEYS:
            return survey(scenes[0], rng)
        elif kind != "follow_up" and scene_fits(kind, scenes[0]):
            return ABOUT_ONE[kind](scenes[0], rng)


def turns_of(exchange: Exchange) -> list[Turn]:
    """The conversation up to and with the question."""
    turns: list[Turn] = []
    if exchange.earlier:
        turns = [
            {"role": "user", "content": exchange.earlier[0]},
            {"role": "assistant", "content": f" {exchange.earlier[1]}"},
        ]
    return [*turns, {"role": "user", "content": exchange.question}]


def conversation(exchange: Exchange) -> list[Turn]:
    """The question with its answer."""
    return [*turns_of(exchange), {"role": "assistant", "content": exchange.answer}]


def world_sources(processor: Processor, codes: WorldCodes, simple_samples: int = 0) -> dict[str, Source]:
    """The three kinds of samples, none with a held-out combination.

    The first `simple_samples` of a run are all simple, and all questions AT_FIRST; over as many more, these give way to
    LEAST_SIMPLE simple ones and questions of every kind.
    """

    def easing(index: int) -> float:
        return min(max(2 - index / simple_samples, 0.0), 1.0) if simple_samples else 0.0

    def is_simple(rng: np.random.Generator, index: int) -> bool:
        return rng.random() < max(easing(index), LEAST_SIMPLE)

    def kinds_of(rng: np.random.Generator, index: int) -> dict[str, float]:
        return AT_FIRST if rng.random() < easing(index) else OFTEN

    def about_one(kinds: dict[str, float]) -> dict[str, float]:
        return {kind: often for kind, often in kinds.items() if kind in ABOUT_ONE}

    def understanding(rng: np.random.Generator, index: int) -> Sample:
        kinds = kinds_of(rng, index)
        exchange, scenes = ask(pick_kind(rng, kinds), rng, simple=is_simple(rng, index))
        turns = conversation(exchange)
        for _ in range(MORE_QUESTIONS):
            turns += conversation(ask_again(scenes, rng, about_one(kinds)))
        return answered(processor, turns, tuple(render(scene) for scene in scenes))

    def text(rng: np.random.Generator, index: int) -> Sample:
        if rng.random() < PLAIN:
            return answered(processor, conversation(plain_text(rng)), ())
        scene = sample_scene(rng, draw_groups(rng))
        kinds = about_one(kinds_of(rng, index))
        turns = [turn for _ in range(1 + MORE_QUESTIONS) for turn in conversation(ask_again((scene,), rng, kinds))]
        turns[0] = {"role": "user", "content": f"{told(scene, rng)}. {turns[0]['content']}"}
        return answered(processor, turns, ())

    def generation(rng: np.random.Generator, index: int) -> Sample:
        simple = is_simple(rng, index)
        scene = sample_scene(rng, draw_groups(rng, simple))
        prompt, _ = drawing_prompt(scene, rng, simple)
        return Sample("generation", processor.drawing_prompt(prompt), codes=codes.of(scene))

    return {"understanding": understanding, "text": text, "generation": generation}
