"""The VQ tokenizer's training: it learns, its codes stay alive, and a stopped run resumes exactly."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from weights_digest import digest

from janus_core.config import VQConfig
from janus_core.mini.world import Scene, Thing, render, world_pictures
from janus_core.training.loop import learning_rate_at
from janus_core.training.progress import read_rows
from janus_core.training.vq import (
    VQRecipe,
    VQTrainer,
    nearest_centre,
    patches_of,
    plain_ground,
    reconstruction_loss,
    seed_centres,
    to_pixels,
    train_vq,
)

TINY = VQConfig(ch=32, ch_mult=(1, 1, 1, 1, 1), z_channels=32, num_res_blocks=1, codebook_size=32, codebook_dim=8)
QUICK = VQRecipe(steps=4, batch=1, warm_up=1, seed_pictures=6, seeded_steps=2, save_every=2, report_every=2)


def pictures(count: int = 2) -> torch.Tensor:
    return to_pixels(world_pictures(np.random.default_rng(0), count))


def test_loss_falls_and_codes_are_named_on_a_fixed_batch():
    trainer = VQTrainer(TINY, replace(QUICK, steps=60, seeded_steps=60, learning_rate=2e-3), dtype=torch.float32)
    trainer.seed(pictures())
    figures = [trainer.step(pictures()) for _ in range(25)]
    assert figures[-1]["loss"] < 0.8 * figures[0]["loss"]
    assert figures[-1]["commitment"] < figures[0]["commitment"]
    assert figures[-1]["named"] > max(0.4, figures[0]["named"])


def test_dead_codes_are_revived():
    trainer = VQTrainer(TINY, replace(QUICK, seeded_steps=0, dead_after=1), dtype=torch.float32)
    trainer.seed(pictures())
    before = trainer.model.quantize.embedding.weight.detach().clone()
    revived = [trainer.step(pictures())["revived"] for _ in range(3)]
    assert sum(revived) > 0
    moved = (trainer.model.quantize.embedding.weight - before).norm(dim=-1) > 0.05
    assert moved.sum() >= max(revived)


def test_the_codes_start_as_means_of_patches_that_look_alike():
    patches = torch.eye(3).repeat_interleave(20, dim=0) * 4 + torch.randn(60, 3, generator=torch.manual_seed(0)) * 0.1
    centres = seed_centres(patches, 3, generator=torch.Generator().manual_seed(0))
    ids = nearest_centre(patches, centres)
    assert sorted(set(ids.tolist())) == [0, 1, 2]
    for group in range(3):
        mine = slice(20 * group, 20 * group + 20)
        assert len(set(ids[mine].tolist())) == 1
        assert torch.allclose(centres[ids[20 * group]], patches[mine].mean(0), atol=1e-5)


def test_patches_are_the_pixels_under_each_code():
    pixels = pictures(1)
    patches = patches_of(pixels, 16)
    assert torch.equal(patches[7].view(3, 16, 16), pixels[0, :, 16:32, 16:32])


def test_a_speck_on_plain_ground_costs_more_than_the_same_error_at_an_edge():
    pixels = to_pixels(render(Scene("white", (Thing("circle", "red", "small", 0),)))[None])
    assert plain_ground(pixels)[0, 0, 60, 60] and not plain_ground(pixels)[0, 0, 16, 7]

    def cost(row: int, column: int, plain_weight: float) -> float:
        picture = pixels.clone()
        picture[:, :, row : row + 2, column : column + 2] -= 20 / 127.5
        weights = {"gradient_weight": 0.5, "worst_patch_weight": 0.2, "plain_weight": plain_weight}
        return reconstruction_loss(picture, pixels, **weights).item()

    assert cost(60, 60, 0.2) > 2 * cost(16, 6, 0.2)
    assert cost(60, 60, 0.0) == pytest.approx(cost(16, 6, 0.0), rel=0.2)


def test_a_picture_without_plain_ground_trains_as_well():
    pixels = to_pixels(render(Scene("striped", ()))[None])
    assert not plain_ground(pixels).any()
    trainer = VQTrainer(TINY, QUICK, dtype=torch.float32)
    trainer.seed(pictures())
    trainer.step(pixels)
    assert all(bool(weight.isfinite().all()) for weight in trainer.model.parameters())


def test_a_resumed_run_equals_one_never_stopped_bit_for_bit(tmp_path: Path):
    recipe = replace(QUICK, decay=0.0)
    whole = train_vq(TINY, recipe, pictures=world_pictures, folder=tmp_path / "whole", dtype=torch.float32)
    settings = {"pictures": world_pictures, "folder": tmp_path / "halves", "dtype": torch.float32}
    train_vq(TINY, replace(recipe, steps=2), **settings)
    halves = train_vq(TINY, recipe, **settings)
    assert digest(halves) == digest(whole)
    assert [row["step"] for row in read_rows(tmp_path / "halves" / "vq.csv")] == ["2", "4"]


def test_the_learning_rate_warms_up_stays_and_goes_down():
    rates = [learning_rate_at(step, peak=1.0, warm_up=10, steps=100, decay=0.5) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[50] == 1.0
    assert rates[75] == pytest.approx(0.5) and rates[100] == 0.0
    assert learning_rate_at(99, peak=1.0, warm_up=0, steps=100, decay=0.0) == 1.0
