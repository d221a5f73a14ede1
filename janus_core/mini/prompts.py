"""Drawing prompts: a scene's description, with what a picture must show to follow it."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from .request import Request, Wanted, relation_holds
from .world import PLACES, Scene, Thing, cell_centre

NUMBERS = ("zero", "one", "two", "three", "four")
FORWARD_RELATIONS, BACKWARD_RELATIONS = ("left of", "above"), ("right of", "below")
PHOTO_OPENINGS = ("a photo of", "a picture of", "an image of")
OPENINGS = (*PHOTO_OPENINGS, "draw", "please draw", "show me")
AT_PLACE = ("in the", "at the")
Option = TypeVar("Option")


def pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def plural(noun: str) -> str:
    """The plural of a noun, or of a phrase that ends with one."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def noun_phrase(thing: Thing | Wanted, *, count: int = 1, size_word: str | None = None) -> str:
    """Name objects, as in "a small red circle" or "three red circles"; `size_word` replaces the size's own word."""
    text = " ".join(word for word in (size_word or thing.size, thing.colour, thing.shape) if word)
    if count > 1:
        return f"{NUMBERS[count]} {plural(text)}"
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def join_phrases(parts: list[str]) -> str:
    """Join phrases as in "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _equal_things(things: tuple[Thing, ...]) -> list[list[Thing]]:
    """Objects grouped by shape, colour and size, in the order of each group's first object."""
    groups: dict[tuple[str, str, str], list[Thing]] = {}
    for thing in things:
        groups.setdefault((thing.shape, thing.colour, thing.size), []).append(thing)
    return list(groups.values())


def _relations(first: Thing, second: Thing) -> tuple[str, ...]:
    """The relations that hold between two objects in reading order.

    One of FORWARD_RELATIONS says where `first` is, one of BACKWARD_RELATIONS where `second` is.
    """
    a, b = cell_centre(first.cell), cell_centre(second.cell)
    forward = [relation for relation in FORWARD_RELATIONS if relation_holds(relation, a, b)]
    return (*forward, *(relation for relation in BACKWARD_RELATIONS if relation_holds(relation, b, a)))


def drawing_prompt(scene: Scene, rng: np.random.Generator, *, simple: bool = False) -> tuple[str, Request]:
    """A prompt that is true of the scene, in one of many wordings, and what a picture must show to follow it.

    A `simple` prompt leaves little open. The colour of a single object is left out in half of the prompts, so that
    size and place are learned on their own too. Objects are named in reading order unless their places are named:
    otherwise a model would have to learn both orders at once.
    """
    # 1. Choose what the prompt mentions.
    groups = _equal_things(scene.things)
    shapes = [group[0].shape for group in groups]
    alone = len(scene.things) == 1
    say_colour = len(set(shapes)) < len(shapes) or rng.random() < (0.5 if alone else 0.95 if simple else 0.65)
    say_size = rng.random() < (0.8 if simple else 0.35 if say_colour else 0.7)
    single = all(len(group) == 1 for group in groups)
    say_relation = len(groups) == 2 and single and rng.random() < (0.15 if simple else 0.5)
    say_place = single and not say_relation and rng.random() < (0.8 if simple else 0.6 if alone else 0.35)
    # 2. Choose the order of the objects.
    relation = None
    if say_place:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    elif say_relation:
        relation = pick(rng, _relations(groups[0][0], groups[1][0]))
        if relation in BACKWARD_RELATIONS:
            groups.reverse()
    # 3. Name them.
    wanted: list[Wanted] = []
    parts: list[str] = []
    for group in groups:
        thing = group[0]
        named = Wanted(
            thing.shape,
            thing.colour if say_colour else None,
            thing.size if say_size else None,
            thing.cell if say_place else None,
        )
        size_word = "big" if named.size == "large" and rng.random() < 0.3 else None
        text = noun_phrase(named, count=len(group), size_word=size_word)
        if say_place:
            text += f" {pick(rng, AT_PLACE)} {PLACES[thing.cell]}"
        wanted += [named] * len(group)
        parts.append(text)
    # 4. Join the names to a sentence.
    if relation:
        words = f"to the {relation}" if relation.endswith("of") and rng.random() < 0.3 else relation
        text = f"{parts[0]} {words} {parts[1]}"
    else:
        text = join_phrases(parts)
    if rng.random() < 0.5:
        text = f"{pick(rng, OPENINGS)} {text}"
    background = scene.background if rng.random() < (0.7 if simple else 0.2) else None
    if background:
        text += f" on a {background} background"
    return text, Request(tuple(wanted), relation, background)


def describe_scene(scene: Scene, rng: np.random.Generator) -> str:
    """The whole scene as text, its objects in any order: enough to answer every question about it."""
    parts = []
    for index in rng.permutation(len(scene.things)):
        thing = scene.things[index]
        parts.append(f"{noun_phrase(thing)} {pick(rng, AT_PLACE)} {PLACES[thing.cell]}")
    return f"{pick(rng, PHOTO_OPENINGS)} {join_phrases(parts)} on a {scene.background} background"
