"""The evaluation's prompts: GenEval's six categories in the mini's world, seen in training and held out."""

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np

from .prompts import PHOTO_OPENINGS, noun_phrase
from .request import Request, Wanted
from .world import COLOURS, PLACES, SHAPES, SIZES, is_held_out

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class Prompt:
    """A drawing prompt, what a picture must show, and whether it names a combination held out from training."""

    category: str
    text: str
    request: Request
    held_out: bool


def all_prompts() -> list[Prompt]:
    """Every prompt of the six categories that the world allows."""
    found: list[Prompt] = []

    def add(category: str, text: str, request: Request, *combination: str) -> None:
        for opening in PHOTO_OPENINGS:
            found.append(Prompt(category, f"{opening} {text}", request, is_held_out(*combination)))

    sized = [Wanted(shape, size=size) for shape in SHAPES for size in SIZES]
    coloured = [Wanted(shape, colour) for shape in SHAPES for colour in COLOURS]
    for category, things in (("single_object", sized), ("colors", coloured)):
        for thing, (cell, place) in product(things, enumerate(PLACES)):
            request = Request((Wanted(thing.shape, thing.colour, thing.size, cell),))
            add(category, f"{noun_phrase(thing)} in the {place}", request, _words(thing), place)
    for a, b in permutations(sized, 2):
        if a.shape != b.shape:
            text = f"{noun_phrase(a)} and {noun_phrase(b)}"
            add("two_object", text, Request((a, b)), _words(a), _words(b))
            for relation in ("left of", "right of", "above", "below"):
                text = f"{noun_phrase(a)} {relation} {noun_phrase(b)}"
                add("position", text, Request((a, b), relation), _words(a), _words(b))
    for a, b in permutations(coloured, 2):
        if a.shape != b.shape and a.colour != b.colour:
            text = f"{noun_phrase(a)} and {noun_phrase(b)}"
            add("color_attr", text, Request((a, b)), _words(a), _words(b))
    for thing, count in product(coloured, (2, 3, 4)):
        text = noun_phrase(thing, count=count)
        add("counting", text, Request((thing,) * count), _words(thing), f"{count} times")
    return found


def _words(wanted: Wanted) -> str:
    return f"{wanted.size or wanted.colour} {wanted.shape}"


def choose_prompts(per_category: int) -> list[Prompt]:
    """`per_category` prompts of each category (or all there are), half of them held out: always the same."""
    rng = np.random.default_rng(0)
    prompts, chosen = all_prompts(), []
    for category, held_out in product(CATEGORIES, (False, True)):
        fitting = [p for p in prompts if p.category == category and p.held_out == held_out]
        chosen += [fitting[i] for i in sorted(rng.permutation(len(fitting))[: per_category // 2])]
    return chosen


def metadata_of(prompt: Prompt) -> dict:
    """The prompt as a line of GenEval's `evaluation_metadata.jsonl`."""
    include: list[dict] = []
    for thing in prompt.request.things:
        entry = {"class": thing.shape, "count": 1} | ({"color": thing.colour} if thing.colour else {})
        if include and all(include[-1].get(key) == entry.get(key) for key in ("class", "color")):
            include[-1]["count"] += 1
        else:
            include.append(entry)
    if prompt.request.relation:  # GenEval gives the position of the second entry relative to the first
        include = [include[1], include[0] | {"position": [prompt.request.relation, 0]}]
    return {"tag": prompt.category, "include": include, "prompt": prompt.text, "held_out": prompt.held_out}
