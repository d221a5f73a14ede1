"""The training loop: what is frozen stays, ratios are met, a stopped run resumes exactly, and losses are the model's."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from weights_digest import digest

from janus_core.errors import InputError
from janus_core.generation.text import embed_prompts
from janus_core.mini.questions import ask
from janus_core.mini.training import RECIPE
from janus_core.model.janus import JanusModel
from janus_core.processing import Processor
from janus_core.training.samples import Mixture, Sample, Source
from janus_core.training.stages import ADAPTORS, KINDS, PAPER, Stage
from janus_core.training.trainer import Trainer, run_stage
from janus_core.weights.names import FUSED

PARTS = ("vision_model", "aligner", "gen_vision_model", "gen_embed", "gen_aligner", "gen_head", "language_model")
QUICK = {"batch": 8, "micro_batch": 4, "steps": 6, "warm_up": 2}


def mixture(sources: dict[str, Source], stage: Stage, processor: Processor, seed: int = 3) -> Mixture:
    return Mixture(sources, stage.mix, seed=seed, pad=processor.pad, condition_drop=stage.condition_drop)


def trainer(model: JanusModel, processor: Processor, sources: dict[str, Source], stage: Stage) -> Trainer:
    return Trainer(model, processor, stage=stage, mixture=mixture(sources, stage, processor), dtype=torch.float32)


@pytest.mark.parametrize("recipe", [RECIPE, PAPER], ids=["mini", "paper"])
@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3"])
def test_a_stage_trains_its_parts_and_leaves_the_others_bit_for_bit(name, recipe, model, processor, sources):
    stage = replace(recipe[name], **QUICK)
    before = {part: digest(model.get_submodule(part)) for part in PARTS}
    run = trainer(model, processor, sources, stage)
    for _ in range(3):
        run.step()
    changed = {part for part in PARTS if digest(model.get_submodule(part)) != before[part]}
    assert changed == set(stage.trained)
    assert "gen_vision_model" not in changed


def test_the_stages_are_the_papers():
    adaptors = set(ADAPTORS)
    assert set(PAPER["stage1"].trained) == adaptors == {"aligner", "gen_embed", "gen_aligner", "gen_head"}
    assert set(PAPER["stage2"].trained) == adaptors | {"language_model"}
    assert set(PAPER["stage3"].trained) == adaptors | {"language_model", "vision_model"}
    settings = {name: (s.learning_rate, s.warm_up, s.batch, s.mix) for name, s in PAPER.items()}
    assert settings == {
        "stage1": (1e-3, 600, 256, (1, 0, 3)),
        "stage2": (1e-4, 5000, 512, (2, 3, 5)),
        "stage3": (4e-5, 0, 128, (5, 1, 4)),
    }
    assert {s.condition_drop for s in (*PAPER.values(), *RECIPE.values())} == {0.1}


@pytest.mark.parametrize("mix", [(1, 0, 3), (2, 3, 5), (5, 1, 4)])
def test_ratios_are_met_over_a_thousand_steps_and_a_tenth_of_the_prompts_are_dropped(mix, processor):
    pad, ids = processor.pad, [1, 50, 51, 52, 4]
    stand_in = {kind: lambda rng, index, kind=kind: Sample(kind, ids, codes=np.zeros(36, np.int64)) for kind in KINDS}
    drawn = Mixture(stand_in, mix, seed=0, pad=pad, condition_drop=0.1)
    samples = [drawn.sample(index) for index in range(1000 * 16)]
    for kind, share in zip(KINDS, mix, strict=True):
        assert np.mean([s.kind == kind for s in samples]) == pytest.approx(share / sum(mix), abs=0.012)
    dropped = [s.ids == [1, pad, pad, pad, 4] for s in samples if s.kind == "generation"]
    assert np.mean(dropped) == pytest.approx(0.1, abs=0.01)
    assert all(s.ids == ids for s in samples if s.kind != "generation")


def test_each_step_mixes_the_kinds(model, processor, sources):
    run = trainer(model, processor, sources, replace(RECIPE["stage2"], **QUICK | {"batch": 32, "mix": (2, 3, 5)}))
    assert set(run.step()) == {*KINDS, "gradient", "rate"}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_resumed_run_equals_one_never_stopped_bit_for_bit(ema, model, processor, sources, tmp_path: Path):
    stage = replace(RECIPE["stage3"], **QUICK, ema=ema)
    whole, halves = copy.deepcopy(model), copy.deepcopy(model)
    run_stage(trainer(whole, processor, sources, stage), "stage3", tmp_path / "whole", report_every=1)

    first = trainer(halves, processor, sources, stage)
    for _ in range(2):
        first.step()
    (tmp_path / "halves").mkdir()
    first.save(tmp_path / "halves" / "stage3.pt")
    again = copy.deepcopy(model)
    run_stage(trainer(again, processor, sources, stage), "stage3", tmp_path / "halves", report_every=1)
    assert digest(again) == digest(whole)
    assert digest(again) != digest(model)


def test_a_state_is_written_under_the_names_that_files_have(model, processor, sources, tmp_path: Path):
    run = trainer(model, processor, sources, replace(RECIPE["stage2"], **QUICK, ema=0.9))
    run.step()
    run.save(tmp_path / "stage2.pt")
    state = torch.load(tmp_path / "stage2.pt", weights_only=True)
    names = list(state["weights"])
    assert names == list(state["averages"])
    assert not any(layer in name for name in names for layer in FUSED)
    for i, name in enumerate(names):
        assert state["optimizer"]["state"][i]["exp_avg"].shape == state["weights"][name].shape


def test_a_state_of_another_run_is_refused(model, processor, sources, tmp_path: Path):
    run = trainer(model, processor, sources, replace(RECIPE["stage1"], **QUICK))
    run.save(tmp_path / "stage.pt")
    with pytest.raises(ValueError, match="another run"):
        trainer(model, processor, sources, replace(RECIPE["stage2"], **QUICK)).resume(tmp_path / "stage.pt")


def test_loss_falls_on_a_fixed_batch(model, processor, sources):
    stage = Stage(
        trained=PARTS[:2] + PARTS[3:],
        learning_rate=3e-3,
        warm_up=5,
        steps=40,
        batch=12,
        micro_batch=12,
        mix=(1, 1, 2),
        condition_drop=0.0,
    )
    fixed = mixture(sources, stage, processor)
    samples = [fixed.sample(i) for i in range(stage.batch)]
    fixed.sample = lambda index: samples[index % stage.batch]
    run = Trainer(model, processor, stage=stage, mixture=fixed, dtype=torch.float32)
    losses = [run.step() for _ in range(40)]
    for kind in KINDS:
        assert losses[-1][kind] < 0.7 * losses[0][kind], kind


def test_accumulated_micro_batches_equal_one_batch(model, processor, sources):
    other = copy.deepcopy(model)
    stage = replace(RECIPE["stage3"], **QUICK)
    trainer(model, processor, sources, stage).step()
    trainer(other, processor, sources, replace(stage, micro_batch=8)).step()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5), name


def test_the_drawing_loss_is_what_the_model_says_of_each_code_in_turn(model, processor, sources):
    rng = np.random.default_rng(0)
    samples = sorted((sources["generation"](rng, 0) for _ in range(3)), key=lambda s: len(s.ids))
    run = trainer(model, processor, sources, RECIPE["stage2"])
    with torch.no_grad():
        found = run.losses(run.collate(samples), ["generation"] * 3)
        expected = 0.0
        for sample in samples:
            codes = torch.from_numpy(sample.codes)[None]
            embeds = torch.cat([model.embed_text(torch.tensor([sample.ids])), model.embed_codes(codes)], dim=1)
            hidden = model.language_model.model(embeds)[:, len(sample.ids) - 1 : -1]
            expected += F.cross_entropy(model.gen_head(hidden)[0], codes[0], reduction="sum").item()
    assert set(found) == {"generation"}
    assert found["generation"].item() == pytest.approx(expected, rel=1e-5)


def test_the_answer_loss_covers_the_answers_and_their_ends_and_nothing_else(model, processor, sources):
    rng = np.random.default_rng(1)
    samples = sorted((sources["understanding"](rng, 0) for _ in range(3)), key=lambda s: len(s.ids))
    run = trainer(model, processor, sources, RECIPE["stage2"])
    with torch.no_grad():
        found = run.losses(run.collate(samples), ["understanding"] * 3)["understanding"].item()
        expected = 0.0
        for sample in samples:
            features = model.embed_images(run.collate([sample]).pixels)
            special = {"image_id": processor.image, "pad": processor.pad}
            embeds, _ = embed_prompts(model, [sample.ids], **special, features=features, device=torch.device("cpu"))
            logits = model.language_model.lm_head(model.language_model.model(embeds))[0]
            assert len(sample.answers) > 1
            for start, end in sample.answers:
                answer = torch.tensor(sample.ids[start:end])
                expected += F.cross_entropy(logits[start - 1 : end - 1], answer, reduction="sum").item()
                assert answer[-1] == processor.eos
    assert found == pytest.approx(expected, rel=1e-5)


def test_training_sees_questions_as_answering_does(processor, sources):
    exchange, scenes = ask("follow_up", np.random.default_rng(0))
    prompt = processor.question_prompt(exchange.question_turns(), len(scenes))
    words = processor.tokenizer.encode(exchange.answer, add_special_tokens=False).ids
    assert processor.decode(words) == exchange.answer
    assert prompt.count(processor.image) == 36 * len(scenes)


def test_a_mix_without_its_data_is_refused(processor, sources):
    with pytest.raises(InputError, match="text"):
        Mixture({"generation": sources["generation"]}, (0, 1, 1), seed=0, pad=processor.pad, condition_drop=0.1)
