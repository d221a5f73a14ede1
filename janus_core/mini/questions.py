"""Questions about scenes, each with its one right answer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..processing import Turn
from .prompts import AT_PLACE, NUMBERS, join_phrases, noun_phrase, pick, plural
from .request import Wanted
from .world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, sample_group_sizes, sample_scene

ORDINALS = ("first", "second")
COLOUR_WORDS = ("color", "colour")
PICTURE_WORDS = ("picture", "image")
SURVEY_SHARE = 0.2  # of the further questions about a scene: with more, their long answers outweigh the short ones


@dataclass(frozen=True)
class Exchange:
    """A question about one or two scenes and its only right answer; `earlier` is the exchange before it, if any."""

    question: str
    answer: str
    earlier: "Exchange | None" = None

    def question_turns(self) -> list[Turn]:
        """The conversation up to the question."""
        return [*(self.earlier.turns() if self.earlier else []), {"role": "user", "content": self.question}]

    def turns(self) -> list[Turn]:
        """The conversation with the answer."""
        return [*self.question_turns(), {"role": "assistant", "content": self.answer}]


def _name(look: tuple[str, str], count: int = 1) -> str:
    return noun_phrase(Wanted(*look), count=count)


def _unique_thing(scene: Scene, rng: np.random.Generator, attribute: str = "look") -> Thing:
    """An object whose look (shape and colour), or shape, no other has."""
    values = [getattr(thing, attribute) for thing in scene.things]
    return scene.things[int(rng.choice([i for i, value in enumerate(values) if values.count(value) == 1]))]


def _unique_name(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """A name that fits no other object; in half of the cases where it is enough, the shape alone."""
    alone = [t.shape for t in scene.things].count(thing.shape) == 1
    return thing.shape if alone and rng.random() < 0.5 else f"{thing.colour} {thing.shape}"


def _what(scene: Scene, rng: np.random.Generator) -> Exchange:
    if len(scene.things) == 1 and rng.random() < 0.5:
        questions = ("what is this?", "what is in the picture?", "what do you see?", "what is in this image?")
        return Exchange(pick(rng, questions), _name(scene.things[0].look))
    thing = pick(rng, scene.things)
    return Exchange(f"what is {pick(rng, AT_PLACE)} {PLACES[thing.cell]}?", _name(thing.look))


def _colour(scene: Scene, rng: np.random.Generator) -> Exchange:
    thing = _unique_thing(scene, rng, "shape")
    word = pick(rng, COLOUR_WORDS)
    return Exchange(
        pick(rng, (f"what {word} is the {thing.shape}?", f"which {word} does the {thing.shape} have?")), thing.colour
    )


def _count(scene: Scene, rng: np.random.Generator) -> Exchange:
    if rng.random() < 0.4:
        noun = pick(rng, ("objects", "shapes"))
        count = len(scene.things)
    else:
        thing = pick(rng, scene.things)
        shape = thing.shape if rng.random() < 0.85 else pick(rng, SHAPES)
        noun = plural(shape)
        count = [t.shape for t in scene.things].count(shape)
    return Exchange(f"how many {noun} {pick(rng, ('are there', 'do you see', 'are in the picture'))}?", NUMBERS[count])


def _where(scene: Scene, rng: np.random.Generator) -> Exchange:
    thing = _unique_thing(scene, rng)
    return Exchange(f"where is the {_unique_name(scene, thing, rng)}?", PLACES[thing.cell])


def _size(scene: Scene, rng: np.random.Generator) -> Exchange:
    thing = _unique_thing(scene, rng)
    return Exchange(f"{pick(rng, ('what size', 'how big'))} is the {_unique_name(scene, thing, rng)}?", thing.size)


def _yes_no(scene: Scene, rng: np.random.Generator) -> Exchange:
    looks = {thing.look for thing in scene.things}
    shape, colour = pick(rng, sorted(looks))
    if rng.random() < 0.5:
        while (shape, colour) in looks:
            if rng.random() < 0.5:
                shape = pick(rng, SHAPES)
            else:
                colour = pick(rng, tuple(COLOURS))
    asked = _name((shape, colour))
    questions = (f"is there {asked}?", f"do you see {asked}?", f"is there {asked} in the picture?")
    return Exchange(pick(rng, questions), "yes" if (shape, colour) in looks else "no")


def _background(scene: Scene, rng: np.random.Generator) -> Exchange:
    return Exchange(pick(rng, ("what is the background?", "how does the background look?")), scene.background)


def _describe(scene: Scene, rng: np.random.Generator) -> Exchange:
    words = ("describe the picture", "describe this image", "describe the image in detail", "describe the objects")
    names = [_name(look, count) for look, count in Counter(thing.look for thing in scene.things).items()]
    return Exchange(pick(rng, words), join_phrases(names))


def _follow_up(scene: Scene, rng: np.random.Generator) -> Exchange:
    thing = _unique_thing(scene, rng)
    name, place = _name(thing.look), PLACES[thing.cell]
    if rng.random() < 0.5:
        return Exchange("where is it?", place, earlier=Exchange(f"is there {name}?", "yes"))
    question = pick(rng, ("how big is it?", "what size is it?"))
    return Exchange(question, thing.size, earlier=Exchange(f"what is in the {place}?", name))


ABOUT_ONE_PICTURE: dict[str, Callable[[Scene, np.random.Generator], Exchange]] = {
    "what": _what,
    "colour": _colour,
    "count": _count,
    "where": _where,
    "size": _size,
    "yes_no": _yes_no,
    "background": _background,
    "describe": _describe,
    "follow_up": _follow_up,
}
QUESTION_CATEGORIES = (*ABOUT_ONE_PICTURE, "two_pictures")


def has_one_answer(category: str, scene: Scene) -> bool:
    """Whether a question of this category has exactly one answer in the scene."""
    if category == "colour":
        return 1 in Counter(thing.shape for thing in scene.things).values()
    if category in ("where", "size", "follow_up"):
        return 1 in Counter(thing.look for thing in scene.things).values()
    return True


def ask(
    category: str, rng: np.random.Generator, *, held_out: bool = False, simple: bool = False
) -> tuple[Exchange, tuple[Scene, ...]]:
    """A question of one of QUESTION_CATEGORIES, with the one or two scenes it is about."""
    while True:
        alone = category == "what" and rng.random() < 0.3
        scene = sample_scene(rng, (1,) if alone else sample_group_sizes(rng, simple=simple), held_out=held_out)
        if category == "two_pictures":
            other = sample_scene(rng, sample_group_sizes(rng, simple=simple))
            if exchange := which_picture((scene, other), rng):
                return exchange, (scene, other)
        elif has_one_answer(category, scene):
            return ABOUT_ONE_PICTURE[category](scene, rng), (scene,)


def _looks_in_one_only(scenes: tuple[Scene, ...]) -> tuple[list[tuple[str, str]], ...]:
    """The shapes and colours that only the first of two scenes shows, and those that only the second shows."""
    first, second = ({thing.look for thing in scene.things} for scene in scenes)
    return sorted(first - second), sorted(second - first)


def which_picture(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Exchange | None:
    """Which of two pictures shows some object; None where the picture chosen shows none of its own."""
    answer = int(rng.integers(2))
    only = _looks_in_one_only(scenes)[answer]
    if not only:
        return None
    asked = _name(pick(rng, only))
    return Exchange(f"which {pick(rng, PICTURE_WORDS)} has {asked}?", f"the {ORDINALS[answer]}")


def survey(scene: Scene, rng: np.random.Generator) -> Exchange:
    """The places of all objects, or the colours of those whose shape no other has, in any order."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    shapes = [t.shape for t in things]
    colours = [f"the {t.shape} is {t.colour}" for t in things if shapes.count(t.shape) == 1]
    if colours and rng.random() < 0.5:
        return Exchange("what color are the shapes?", join_phrases(colours))
    return Exchange(
        "where are the objects?", join_phrases([f"{_name(t.look)} in the {PLACES[t.cell]}" for t in things])
    )


def survey_of_two(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Exchange | None:
    """Which of two pictures shows each of their objects, in any order; None where both show the same."""
    phrases = [
        f"{_name(look)} in the {ordinal}"
        for ordinal, looks in zip(ORDINALS, _looks_in_one_only(scenes), strict=True)
        for look in looks
    ]
    answer = [phrases[i] for i in rng.permutation(len(phrases))]
    return Exchange("which picture are the objects in?", join_phrases(answer)) if answer else None


def describe_one_of_two(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Exchange:
    """What one of two pictures shows."""
    ordinal, scene = pick(rng, tuple(zip(ORDINALS, scenes, strict=True)))
    return Exchange(f"describe the {ordinal} {pick(rng, PICTURE_WORDS)}", _describe(scene, rng).answer)


def pick_category(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One of the categories, with these weights."""
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(weights), p=shares / shares.sum()))]


def ask_again(scenes: tuple[Scene, ...], rng: np.random.Generator, weights: dict[str, float]) -> Exchange:
    """One more question about the scenes; `weights` are of categories in ABOUT_ONE_PICTURE."""
    while True:
        category = pick_category(rng, weights)
        if len(scenes) == 2:
            form = rng.random()
            if form < SURVEY_SHARE:
                exchange = survey_of_two(scenes, rng)
            else:
                exchange = describe_one_of_two(scenes, rng) if form < 0.7 else which_picture(scenes, rng)
            if exchange:
                return exchange
        elif rng.random() < SURVEY_SHARE:
            return survey(scenes[0], rng)
        elif category != "follow_up" and has_one_answer(category, scenes[0]):
            return ABOUT_ONE_PICTURE[category](scenes[0], rng)


def plain_text(rng: np.random.Generator) -> Exchange:
    """A question that needs no picture."""
    form = int(rng.integers(5))
    if form == 0:
        a = int(rng.integers(1, 4))
        b = int(rng.integers(0, 5 - a))
        return Exchange(f"what is {NUMBERS[a]} and {NUMBERS[b]}?", NUMBERS[a + b])
    if form == 1:
        a = int(rng.integers(0, 4))
        return Exchange(f"what comes after {NUMBERS[a]}?", NUMBERS[a + 1])
    shape, colour, size = pick(rng, SHAPES), pick(rng, tuple(COLOURS)), pick(rng, tuple(SIZES))
    if form == 2:
        return Exchange(f"what {pick(rng, COLOUR_WORDS)} is {_name((shape, colour))}?", colour)
    if form == 3:
        word, answer = pick(rng, ((shape, "a shape"), (colour, "a color"), (size, "a size")))
        return Exchange(f"what is {word}?", answer)
    thing = pick(rng, (*SHAPES, *COLOURS, *SIZES, *BACKGROUNDS))
    return Exchange(f"is {thing} a shape?", "yes" if thing in SHAPES else "no")
