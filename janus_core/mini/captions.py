"""Words about the mini's world: drawing prompts with what they ask for, and questions with their answers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .judge import Request, Wanted, related
from .world import BACKGROUNDS, CELL, COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four")
ORDINALS = ("first", "second")
FORWARDS, BACKWARDS = ("left of", "above"), ("right of", "below")
OPENINGS = ("a photo of", "a picture of", "an image of", "draw", "please draw", "show me")
GROUPS: tuple[tuple[tuple[int, ...], float], ...] = (  # equal objects in each group, and how often
    ((1,), 0.25),
    ((1, 1), 0.36),
    ((1, 1, 1), 0.09),
    ((1, 1, 1, 1), 0.05),
    ((2,), 0.06),
    ((3,), 0.07),
    ((4,), 0.07),
    ((2, 1), 0.025),
    ((3, 1), 0.0125),
    ((2, 2), 0.0125),
)


def draw_groups(rng: np.random.Generator, simple: bool = False) -> tuple[int, ...]:
    """How many equal objects each group of a scene has, drawn by the shares of GROUPS; one or two if `simple`."""
    if simple:
        return (1,) if rng.random() < 0.5 else (1, 1)
    return GROUPS[int(rng.choice(len(GROUPS), p=[share for _, share in GROUPS]))][0]


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def name(thing: Thing | Wanted, count: int = 1, size_word: str | None = None) -> str:
    """The noun phrase of one object ("a small red circle") or of several equal ones ("three red circles")."""
    words = [size_word or thing.size, thing.colour, thing.shape]
    text = " ".join(word for word in words if word)
    if count > 1:
        return f"{NUMBERS[count]} {text}es" if text.endswith("s") else f"{NUMBERS[count]} {text}s"
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def listed(parts: list[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def groups_of(things: tuple[Thing, ...]) -> list[list[Thing]]:
    """Objects that look alike together, in the order in which the first of each stands."""
    groups: dict[tuple[str, str, str], list[Thing]] = {}
    for thing in things:
        groups.setdefault((thing.shape, thing.colour, thing.size), []).append(thing)
    return list(groups.values())


def centre(cell: int) -> tuple[float, float]:
    return (cell % 3 + 0.5) * CELL, (cell // 3 + 0.5) * CELL


def relations_in_order(first: Thing, second: Thing) -> list[str]:
    """What is true of two objects in reading order: of the second to the first if in BACKWARDS, else the other way."""
    a, b = centre(first.cell), centre(second.cell)
    return [word for word in FORWARDS if related(word, a, b)] + [word for word in BACKWARDS if related(word, b, a)]


def drawing_prompt(scene: Scene, rng: np.random.Generator, simple: bool = False) -> tuple[str, Request]:
    """A prompt that is true of the scene, in one of many wordings, and what a picture must show to follow it.

    A `simple` prompt leaves little open, and so teaches most about what its words mean; one object alone goes without
    its colour as often as not, so that size and place are learned by themselves too. Objects are named in reading
    order unless their places are named too: which of two is drawn first is then no toss-up, whose two outcomes a
    model could only learn together.
    """
    groups = groups_of(scene.things)
    shapes = [group[0].shape for group in groups]
    alone = len(scene.things) == 1
    say_colour = len(set(shapes)) < len(shapes) or rng.random() < (0.5 if alone else 0.95 if simple else 0.65)
    say_size = rng.random() < (0.8 if simple else 0.35 if say_colour else 0.7)
    single = all(len(group) == 1 for group in groups)
    related_pair = len(groups) == 2 and single and rng.random() < (0.15 if simple else 0.5)
    say_place = single and not related_pair and rng.random() < (0.8 if simple else 0.6 if alone else 0.35)
    relation = None
    if say_place:
        groups = [groups[i] for i in rng.permutation(len(groups))]
    elif related_pair:
        relation = pick(rng, tuple(relations_in_order(groups[0][0], groups[1][0])))
        if relation in BACKWARDS:
            groups.reverse()
    wanted: list[Wanted] = []
    parts: list[str] = []
    for group in groups:
        thing = group[0]
        seen_as = Wanted(
            thing.shape,
            thing.colour if say_colour else None,
            thing.size if say_size else None,
            thing.cell if say_place else None,
        )
        size_word = "big" if seen_as.size == "large" and rng.random() < 0.3 else None
        text = name(seen_as, len(group), size_word)
        if say_place:
            text += f" {pick(rng, ('in the', 'at the'))} {PLACES[thing.cell]}"
        wanted += [seen_as] * len(group)
        parts.append(text)
    if relation:
        word = f"to the {relation}" if relation.endswith("of") and rng.random() < 0.3 else relation
        text = f"{parts[0]} {word} {parts[1]}"
    else:
        text = listed(parts)
    if rng.random() < 0.5:
        text = f"{pick(rng, OPENINGS)} {text}"
    background = scene.background if rng.random() < (0.7 if simple else 0.2) else None
    if background:
        text += f" on a {background} background"
    return text, Request(tuple(wanted), relation, background)


@dataclass(frozen=True)
class Exchange:
    """A question about one or two scenes and its only right answer; `earlier` holds the turn before, if any."""

    question: str
    answer: str
    earlier: tuple[str, str] | None = None


def told(scene: Scene, rng: np.random.Generator) -> str:
    """The whole scene in words, its objects in any order: and so all that a question about it needs."""
    parts = []
    for index in rng.permutation(len(scene.things)):
        thing = scene.things[index]
        look = Wanted(thing.shape, thing.colour, thing.size)
        parts.append(f"{name(look)} {pick(rng, ('in the', 'at the'))} {PLACES[thing.cell]}")
    return f"{pick(rng, OPENINGS[:3])} {listed(parts)} on a {scene.background} background"


def _only_one(scene: Scene, rng: np.random.Generator) -> Thing:
    """An object whose shape and colour no other has; scenes for questions always hold one."""
    looks = [(t.shape, t.colour) for t in scene.things]
    return scene.things[int(rng.choice([i for i, look in enumerate(looks) if looks.count(look) == 1]))]


def _the(scene: Scene, thing: Thing, rng: np.random.Generator) -> str:
    """A name that fits no other object: by shape alone where that is enough, sometimes."""
    alone = [t.shape for t in scene.things].count(thing.shape) == 1
    return thing.shape if alone and rng.random() < 0.5 else f"{thing.colour} {thing.shape}"


def _what(scene: Scene, rng: np.random.Generator) -> Exchange:
    if len(scene.things) == 1 and rng.random() < 0.5:
        question = pick(rng, ("what is this?", "what is in the picture?", "what do you see?", "what is in this image?"))
        return Exchange(question, name(Wanted(scene.things[0].shape, scene.things[0].colour)))
    thing = scene.things[int(rng.integers(len(scene.things)))]
    question = f"what is {pick(rng, ('in the', 'at the'))} {PLACES[thing.cell]}?"
    return Exchange(question, name(Wanted(thing.shape, thing.colour)))


def _colour(scene: Scene, rng: np.random.Generator) -> Exchange:
    shapes = [t.shape for t in scene.things]
    thing = scene.things[int(rng.choice([i for i, s in enumerate(shapes) if shapes.count(s) == 1]))]
    word = pick(rng, ("color", "colour"))
    return Exchange(
        pick(rng, (f"what {word} is the {thing.shape}?", f"which {word} does the {thing.shape} have?")), thing.colour
    )


def _count(scene: Scene, rng: np.random.Generator) -> Exchange:
    if rng.random() < 0.4:
        noun = pick(rng, ("objects", "shapes"))
        count = len(scene.things)
    else:
        thing = scene.things[int(rng.integers(len(scene.things)))]
        shape = thing.shape if rng.random() < 0.85 else pick(rng, SHAPES)
        noun = name(Wanted(shape), 2).split()[1]
        count = [t.shape for t in scene.things].count(shape)
    return Exchange(f"how many {noun} {pick(rng, ('are there', 'do you see', 'are in the picture'))}?", NUMBERS[count])


def _where(scene: Scene, rng: np.random.Generator) -> Exchange:
    thing = _only_one(scene, rng)
    return Exchange(f"where is the {_the(scene, thing, rng)}?", PLACES[thing.cell])


def _size(scene: Scene, rng: np.random.Generator) -> Exchange:
    thing = _only_one(scene, rng)
    return Exchange(f"{pick(rng, ('what size', 'how big'))} is the {_the(scene, thing, rng)}?", thing.size)


def _yes_no(scene: Scene, rng: np.random.Generator) -> Exchange:
    looks = {(t.shape, t.colour) for t in scene.things}
    shape, colour = sorted(looks)[int(rng.integers(len(looks)))]
    if rng.random() < 0.5:
        while (shape, colour) in looks:
            if rng.random() < 0.5:
                shape = pick(rng, SHAPES)
            else:
                colour = pick(rng, tuple(COLOURS))
    asked = name(Wanted(shape, colour))
    question = pick(rng, (f"is there {asked}?", f"do you see {asked}?", f"is there {asked} in the picture?"))
    return Exchange(question, "yes" if (shape, colour) in looks else "no")


def _background(scene: Scene, rng: np.random.Generator) -> Exchange:
    return Exchange(pick(rng, ("what is the background?", "how does the background look?")), scene.background)


def _describe(scene: Scene, rng: np.random.Generator) -> Exchange:
    groups: dict[tuple[str, str], int] = {}
    for thing in scene.things:
        groups[thing.shape, thing.colour] = groups.get((thing.shape, thing.colour), 0) + 1
    words = ("describe the picture", "describe this image", "describe the image in detail", "describe the objects")
    return Exchange(pick(rng, words), listed([name(Wanted(*look), count) for look, count in groups.items()]))


def _follow_up(scene: Scene, rng: np.random.Generator) -> Exchange:
    thing = _only_one(scene, rng)
    first = Exchange(f"what is in the {PLACES[thing.cell]}?", name(Wanted(thing.shape, thing.colour)))
    if rng.random() < 0.5:
        asked = name(Wanted(thing.shape, thing.colour))
        first = Exchange(f"is there {asked}?", "yes")
        return Exchange("where is it?", PLACES[thing.cell], (first.question, first.answer))
    return Exchange(pick(rng, ("how big is it?", "what size is it?")), thing.size, (first.question, first.answer))


ABOUT_ONE: dict[str, Callable[[Scene, np.random.Generator], Exchange]] = {
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
QUESTION_KINDS = (*ABOUT_ONE, "two_pictures")


def scene_fits(kind: str, scene: Scene) -> bool:
    """Whether a question of this kind has one clear answer in the scene."""
    if kind == "colour":
        shapes = [t.shape for t in scene.things]
        return any(shapes.count(s) == 1 for s in shapes)
    if kind in ("where", "size", "follow_up"):
        looks = [(t.shape, t.colour) for t in scene.things]
        return any(looks.count(look) == 1 for look in looks)
    return True


def which_picture(first: Scene, second: Scene, rng: np.random.Generator) -> Exchange | None:
    """Which of two pictures has some object; None when both show the same objects."""
    looks = [{(t.shape, t.colour) for t in scene.things} for scene in (first, second)]
    answer = int(rng.integers(2))
    only = sorted(looks[answer] - looks[1 - answer])
    if not only:
        return None
    asked = name(Wanted(*only[int(rng.integers(len(only)))]))
    noun = pick(rng, ("picture", "image"))
    return Exchange(f"which {noun} has {asked}?", f"the {ORDINALS[answer]}")


def survey(scene: Scene, rng: np.random.Generator) -> Exchange:
    """Where all objects are, or the colours of those whose shape no other has, in any order: many answers in one."""
    things = [scene.things[i] for i in rng.permutation(len(scene.things))]
    shapes = [t.shape for t in things]
    colours = [f"the {t.shape} is {t.colour}" for t in things if shapes.count(t.shape) == 1]
    if colours and rng.random() < 0.5:
        return Exchange("what color are the shapes?", listed(colours))
    places = [f"{name(Wanted(t.shape, t.colour))} in the {PLACES[t.cell]}" for t in things]
    return Exchange("where are the objects?", listed(places))


def survey_of_two(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Exchange | None:
    """Which of two pictures has each of their objects, in any order; None when both show the same."""
    looks = [{(t.shape, t.colour) for t in scene.things} for scene in scenes]
    only = [(look, which) for which in (0, 1) for look in sorted(looks[which] - looks[1 - which])]
    found = [only[i] for i in rng.permutation(len(only))]
    answer = listed([f"{name(Wanted(*look))} in the {ORDINALS[which]}" for look, which in found]) if found else ""
    return Exchange("which picture are the objects in?", answer) if found else None


def describe_one(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Exchange:
    """What one of two pictures shows: each word of the answer tells the two apart."""
    which = int(rng.integers(2))
    question = f"describe the {ORDINALS[which]} {pick(rng, ('picture', 'image'))}"
    return Exchange(question, _describe(scenes[which], rng).answer)


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
        return Exchange(f"what {pick(rng, ('color', 'colour'))} is {name(Wanted(shape, colour))}?", colour)
    if form == 3:
        word, answer = ((shape, "a shape"), (colour, "a color"), (size, "a size"))[int(rng.integers(3))]
        return Exchange(f"what is {word}?", answer)
    thing = pick(rng, (*SHAPES, *COLOURS, *SIZES, *BACKGROUNDS))
    return Exchange(f"is {thing} a shape?", "yes" if thing in SHAPES else "no")


def all_words() -> list[str]:
    """Every word the world is spoken of in, sorted: the mini's vocabulary."""
    rng = np.random.default_rng(0)
    from .world import sample_scene

    texts: list[str] = [
        *NUMBERS,
        *PLACES,
        *BACKGROUNDS,
        *COLOURS,
        *SIZES,
        *SHAPES,
        *OPENINGS,
        *ORDINALS,
        "nothing",
    ]
    for _ in range(6000):
        scene = sample_scene(rng, draw_groups(rng))
        texts.append(drawing_prompt(scene, rng)[0])
        exchanges = [ask(scene, rng) for kind, ask in ABOUT_ONE.items() if scene_fits(kind, scene)]
        exchanges += [e for e in (which_picture(scene, sample_scene(rng, (1,)), rng), plain_text(rng)) if e]
        for exchange in exchanges:
            texts += [exchange.question, exchange.answer, *(exchange.earlier or ())]
    return sorted({word for text in texts for word in text.replace(",", " , ").replace("?", " ").split()})
