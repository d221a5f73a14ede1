"""Drawing against the original's own loop: ids equal, logits within 1e-4."""

from __future__ import annotations

import shutil

import pytest
import torch

import janus_core
from janus_core.generation.codes import Kept

RUNS = {  # run: (what to draw, CFG weight)
    "greedy_a": ("the red cat is in the boat", 5.0),
    "greedy_b": ("a photo of an owl, at night", 5.0),
    "greedy_b_cfg1": ("a photo of an owl, at night", 1.0),
    "sample_a_seed1234": ("the red cat is in the boat", 5.0),
    "sample_b_seed99_t0.7_cfg3": ("a photo of an owl, at night", 3.0),
}
GREEDY = [run for run in RUNS if run.startswith("greedy")]


@pytest.mark.parametrize("run", RUNS)
def test_prompt_ids_end_with_begin_of_image(janus, golden, run):
    assert janus.processor.drawing_prompt(RUNS[run][0]) == golden[f"generate.{run}.prompt_tokens"][0].tolist()


@pytest.mark.parametrize("run", GREEDY)
def test_greedy_ids_and_logits_of_every_step(janus, golden, close, record, run):
    prompt, weight = RUNS[run]
    recorded = golden[f"generate.{run}.ids"]
    logits = record(janus.model.gen_head)
    tokens = janus.generate(prompt, count=len(recorded), cfg_weight=weight, temperature=0)
    assert tokens.ids.tolist() == recorded.tolist()
    cond, *uncond = torch.stack(logits).split(len(recorded), dim=1)  # each [36, pictures, codes]
    close(cond[:, 0], golden[f"generate.{run}.head_logits"][:, 0])
    assert len(uncond) == (weight != 1)
    for rows in uncond:
        close(rows[:, 0], golden[f"generate.{run}.head_logits"][:, 1])


def test_greedy_picture(janus, golden, close):
    images = janus.decode(janus.generate(RUNS["greedy_b"][0], temperature=0))
    close(images, ((golden["generate.greedy_b.pixels"] + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1))


def test_roles_of_janus_1_3b(checkpoint, golden, tmp_path):
    """The run with plain role names: a Janus-1.3B is known by its folder's name."""
    folder = shutil.copytree(checkpoint, tmp_path / "Janus-1.3B")
    old = janus_core.load(folder)
    prompt = "a stone tower"
    assert old.processor.drawing_prompt(prompt) == golden["generate.greedy_c.prompt_tokens"][0].tolist()
    assert old.generate(prompt, temperature=0).ids.tolist() == golden["generate.greedy_c.ids"].tolist()


@pytest.mark.parametrize("run", [run for run in RUNS if run.startswith("sample")])
@torch.no_grad()
def test_sampled_runs_teacher_forced(janus, golden, close, run):
    """The original drew these with another random stream: given its ids, every step's logits are the same."""
    recorded = golden[f"generate.{run}.ids"].long()
    prompts = golden[f"generate.{run}.prompt_tokens"].long()  # cond, uncond
    model = janus.model
    for i, ids in enumerate(recorded):
        drawn = model.embed_codes(ids[None, :-1]).expand(2, -1, -1)
        hidden = model.language_model.model(torch.cat((model.embed_text(prompts), drawn), dim=1))
        logits = model.gen_head(hidden[:, -36:]).transpose(0, 1)  # [36, 2, codes]
        close(logits, golden[f"generate.{run}.head_logits"][:, 2 * i : 2 * i + 2])


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("sampler", ["sequential", "jacobi"])
def test_likelihoods_of_the_originals_codes_are_those_of_its_logits(janus, golden, close, run, sampler):
    prompt, weight = RUNS[run]
    cond = golden[f"generate.{run}.head_logits"].transpose(0, 1)[::2]  # [pictures, 36, codes]
    ids = golden[f"generate.{run}.ids"].long()[: len(cond)]  # of equal pictures one is recorded
    kept = Kept(ids, torch.zeros(ids.shape))
    again = janus.draw(janus.drawing_of(prompt, len(ids), cfg_weight=weight, kept=kept, sampler=sampler))
    assert torch.equal(again.ids, ids)
    close(kept.likelihood, cond.float().log_softmax(dim=-1).gather(-1, ids[..., None])[..., 0])
