"""The mini's world: nothing held out is ever trained on, words are true, and the vocabulary knows them all."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import janus_core
from janus_core.mini.code_init import init_codes_from_patches, joint_features, patch_features
from janus_core.mini.codes import WorldCodes
from janus_core.mini.eval_prompts import CATEGORIES, all_prompts, choose_prompts
from janus_core.mini.prompts import describe_scene, drawing_prompt
from janus_core.mini.questions import QUESTION_CATEGORIES, ask, plain_text
from janus_core.mini.samples import world_sources
from janus_core.mini.vocabulary import UNKNOWN, build_tokenizer
from janus_core.mini.world import (
    COLOURS,
    PLACES,
    SHAPES,
    Scene,
    Thing,
    held_out_combinations,
    render,
    sample_crowded_scene,
    sample_group_sizes,
    sample_scene,
)
from janus_core.training.vq import UNUSED_CENTRE, patches_of, to_pixels


def test_training_scenes_hold_no_held_out_combination_and_the_others_do():
    rng = np.random.default_rng(0)
    for _ in range(300):
        groups = sample_group_sizes(rng)
        assert not held_out_combinations(sample_scene(rng, groups))
        assert not held_out_combinations(sample_crowded_scene(rng))
        assert held_out_combinations(sample_scene(rng, groups, held_out=True))


def test_training_questions_show_no_held_out_combination():
    rng = np.random.default_rng(0)
    for kind in QUESTION_CATEGORIES:
        for _ in range(40):
            assert not any(held_out_combinations(scene) for scene in ask(kind, rng)[1])


def test_every_kind_of_combination_has_a_held_out_share():
    shares = {}
    for category in CATEGORIES:
        mine = [prompt.held_out for prompt in all_prompts() if prompt.category == category]
        shares[category] = np.mean(mine)
    assert all(0.05 < share < 0.3 for share in shares.values()), shares


def test_the_evaluation_has_fifty_different_prompts_a_category_half_of_them_held_out():
    chosen = choose_prompts(50)
    for category in CATEGORIES:
        mine = [p for p in chosen if p.category == category]
        assert len({p.text for p in mine}) == 50
        assert sum(p.held_out for p in mine) == 25


def test_a_seed_names_a_world():
    first, second = ([sample_scene(np.random.default_rng(s), (1, 2)) for s in range(20)] for _ in range(2))
    assert first == second
    assert len(set(first)) == 20


def test_pictures_are_anti_aliased_and_objects_stay_in_their_cells():
    scene = Scene("white", (Thing("circle", "red", "large", 4),))
    picture, empty = render(scene), render(Scene("white", ()))
    changed = (picture != empty).any(-1)
    assert not changed[:32].any() and not changed[64:].any() and not changed[:, :32].any() and not changed[:, 64:].any()
    assert len(np.unique(picture[changed][:, 1])) > 10


def test_the_vocabulary_has_every_word_of_prompts_and_questions():
    tokenizer, rng = build_tokenizer(), np.random.default_rng(9)
    for index in range(500):
        held_out = bool(index % 2)
        exchange, _ = ask(QUESTION_CATEGORIES[index % len(QUESTION_CATEGORIES)], rng, held_out=held_out)
        scene = sample_scene(rng, sample_group_sizes(rng), held_out=held_out)
        for text in (
            exchange.question,
            exchange.answer,
            drawing_prompt(scene, rng)[0],
            describe_scene(scene, rng),
            plain_text(rng).question,
        ):
            assert UNKNOWN not in tokenizer.encode(text).tokens, text


def test_a_described_scene_names_every_object_with_all_that_can_be_asked_about_it():
    rng = np.random.default_rng(2)
    for _ in range(50):
        scene = sample_scene(rng, sample_group_sizes(rng))
        text = describe_scene(scene, rng)
        for thing in scene.things:
            named = f"{thing.size} {thing.colour} {thing.shape} (in|at) the {PLACES[thing.cell]}(,| and| on a)"
            assert re.search(named, text), (named, text)
        assert text.endswith(f"on a {scene.background} background")


def test_the_tokenizer_is_the_shipped_one():
    shipped = Path(janus_core.__file__).parent / "assets" / "janus-mini" / "tokenizer.json"
    assert json.loads(build_tokenizer().to_str()) == json.loads(shipped.read_text(encoding="utf-8"))


def test_words_come_back_as_they_went_in():
    tokenizer = build_tokenizer()
    text = "a red circle, a blue square and two green crosses"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("A Red CIRCLE.").ids == tokenizer.encode("a red circle").ids


@pytest.mark.parametrize("kind", QUESTION_CATEGORIES)
def test_questions_are_answered_from_the_scene(kind: str):
    """The answers vary with the scene, and none is so common that guessing it would pass."""
    rng = np.random.default_rng(4)
    answers = [ask(kind, rng)[0].answer for _ in range(200)]
    assert max(answers.count(a) for a in set(answers)) < 150


def test_simple_scenes_hold_one_or_two_objects_and_their_prompts_say_more():
    rng = np.random.default_rng(0)
    assert {sample_group_sizes(rng, simple=True) for _ in range(50)} == {(1,), (1, 1)}
    scene = sample_scene(rng, (1,))
    lengths = [[len(drawing_prompt(scene, rng, simple=simple)[0]) for _ in range(200)] for simple in (True, False)]
    assert np.mean(lengths[0]) > 1.2 * np.mean(lengths[1])


def test_a_run_eases_in_from_simple_scenes_to_the_whole_world(processor, sources):
    """Prompts get shorter as they leave more open; nobody counts at first."""
    codes = WorldCodes(lambda pictures: torch.zeros(len(pictures), 36, dtype=torch.long))
    eased = world_sources(processor, codes, simple_samples=1000)

    def words(index: int) -> float:
        return float(np.mean([len(eased["generation"](np.random.default_rng(i), index).ids) for i in range(300)]))

    assert words(0) == words(1000) > words(1500) > words(2000) == words(10**6)

    def counted(kind: str, index: int) -> bool:
        samples = (eased[kind](np.random.default_rng(i), index) for i in range(100))
        return any("many" in processor.decode(sample.ids) for sample in samples)

    for kind in ("understanding", "text"):
        assert not counted(kind, 1000) and counted(kind, 2000)


def test_codes_of_one_colour_or_one_outline_start_alike(model):
    """A linear reading of the image head's first rows tells colours and shapes apart."""
    looks = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    scenes = [Scene("white", (Thing(shape, colour, "large", 4),)) for shape, colour in looks]
    patches = patches_of(to_pixels(np.stack([render(scene) for scene in scenes])), 16).unflatten(0, (len(looks), 36))
    rows, pairs = patch_features(patches[:, 14], 32), joint_features(patches[:, 14], 256)
    likeness = rows @ rows.T / 2
    same_shape = torch.tensor([[a[0] == b[0] for b in looks] for a in looks])
    same_colour = torch.tensor([[a[1] == b[1] for b in looks] for a in looks])
    neither = likeness[~same_shape & ~same_colour].mean()
    assert likeness[same_shape & ~same_colour].mean() > neither + 0.3
    assert likeness[same_colour & ~same_shape].mean() > neither + 0.1
    assert (pairs @ pairs.T)[same_shape != same_colour].abs().mean() < 0.3, "alike in one is not alike as a pair"

    centres = torch.full((64, 768), UNUSED_CENTRE)
    centres[: len(looks)] = patches[:, 14]
    init_codes_from_patches(model, centres)
    head = model.gen_head.vision_head.weight
    assert head[: len(looks)].norm(dim=1).min() > 0.5 and not head[len(looks) :].any()
