"""`train lora`: adapters on a frozen model learn, nothing else does, and their file means what they do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from janus_core import InputError
from janus_core.__main__ import main
from janus_core.mini.model import new_model
from janus_core.mini.world import world_pictures
from janus_core.model.janus import JanusModel
from janus_core.training.adapters import add_adapters, recompute_layers, save_adapters
from janus_core.training.lora import FILE, STAGE
from janus_core.training.samples import Mixture, captions, read_folder
from janus_core.training.stages import with_settings
from janus_core.training.trainer import Trainer
from janus_core.weights.checkpoint import CheckpointFiles
from janus_core.weights.lora import merge_lora, read_lora

CAPTIONS = ["a red circle", "two blue rings", "a green cross"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Pictures with captions beside them, and one without, which is no sample."""
    folder = tmp_path / "data"
    folder.mkdir()
    for index, picture in enumerate(world_pictures(np.random.default_rng(0), len(CAPTIONS) + 1)):
        Image.fromarray(picture).save(folder / f"{index}.png")
        if index < len(CAPTIONS):
            (folder / f"{index}.txt").write_text(f"{CAPTIONS[index]}\n", encoding="utf-8")
    return folder


def trainer_of(model: JanusModel, processor, sources, **settings) -> Trainer:
    settings = {"steps": 8, "batch": 4, "micro_batch": 2, "warm_up": 0, "decay": 0.0, "learning_rate": 1e-2} | settings
    stage = with_settings(STAGE, "lora", settings)
    mixture = Mixture(sources, stage.mix, seed=1, pad=processor.pad, condition_drop=0.1)
    return Trainer(model, processor, stage=stage, mixture=mixture, dtype=torch.float32)


def states(model: JanusModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_only_the_adapters_learn_and_their_file_merged_does_what_they_do(
    model: JanusModel, tiny_folder: Path, processor, sources, tmp_path: Path
) -> None:
    tokens = torch.randn(2, 9, 32)
    plain = model.language_model.model(tokens)
    adapters = add_adapters(model, rank=3)
    before = states(model)
    assert torch.equal(model.language_model.model(tokens), plain)  # nothing is added at the start
    trainer = trainer_of(model, processor, sources)
    samples = [trainer.mixture.sample(index) for index in range(trainer.stage.batch)]

    @torch.no_grad()
    def loss() -> float:
        return float(sum(trainer.losses(trainer.collate(samples), [s.kind for s in samples]).values()))

    start = loss()
    for _ in range(8):
        trainer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"lora.{i}.{part}" for i in range(len(adapters)) for part in ("down", "up")}
    assert loss() < start

    save_adapters(adapters, {"r": 3, "lora_alpha": 3}, tmp_path / FILE)
    merged = new_model(CheckpointFiles(tiny_folder, ()).config(), seed=0)
    layers = read_lora(tmp_path / FILE, merged)
    assert len(layers) == 7 * 2
    merge_lora(merged, layers)
    adapted = model.language_model.model(tokens)
    assert (adapted - plain).abs().max() > 0.01
    assert torch.allclose(merged.language_model.model(tokens), adapted, atol=1e-4, rtol=0)


def test_layers_that_are_computed_again_have_the_same_gradients(model: JanusModel, processor, sources) -> None:
    adapters = add_adapters(model, rank=2)
    for adapter in adapters:
        torch.nn.init.normal_(adapter.up, std=0.1, generator=torch.Generator().manual_seed(1))
    trainer = trainer_of(model, processor, sources)
    samples = [trainer.mixture.sample(index) for index in range(4)]

    def gradients() -> list[torch.Tensor]:
        losses = trainer.losses(trainer.collate(samples), [s.kind for s in samples])
        torch.stack(list(losses.values())).sum().backward()
        found = [p.grad for adapter in adapters for p in adapter.parameters() if p.grad is not None]
        assert len(found) == 2 * len(adapters)
        trainer.optimizer.zero_grad()
        return found

    stored = gradients()
    recompute_layers(model)
    assert all(torch.equal(a, b) for a, b in zip(gradients(), stored, strict=True))
    assert all(gradient.any() for gradient in stored)


@pytest.mark.parametrize("base", ["fp32", "bf16", "int8"])
def test_pictures_with_captions_become_a_lora_with_samples_on_the_way(
    base: str, tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "lora"
    flags = [
        "--checkpoint",
        str(tiny_folder),
        "--data",
        str(data),
        "--out",
        str(out),
        "--base",
        base,
        "--device",
        "cpu",
    ]
    flags += ["--batch", "2", "--sample-every", "2", "--sample", "a red circle", "--sample", "a ring", "--rank", "2"]
    assert main(["train", "lora", *flags, "--steps", "3"]) == 0
    assert capsys.readouterr().out.strip() == str(out / FILE)
    with Image.open(out / "training" / "lora_000002.png") as sheet:
        assert sheet.size == (2 * 96, 96)
    about = json.loads((out / "adapter_config.json").read_text())
    assert about["r"] == about["lora_alpha"] == 2 and about["peft_type"] == "LORA"
    model = new_model(CheckpointFiles(tiny_folder, ()).config(), seed=0)
    first = {layer.target: layer.up.clone() for layer in read_lora(out / FILE, model)}
    assert any(up.any() for up in first.values())
    assert main(["train", "lora", *flags, "--steps", "4"]) == 0  # goes on from step 3
    rows = (out / "training" / "lora.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "3", "4"]
    assert any(not torch.equal(layer.up, first[layer.target]) for layer in read_lora(out / FILE, model))
    assert main(["train", "lora", *flags, "--steps", "5", "--rank", "3"]) == 2
    assert "has a LoRA of other --checkpoint, --rank or --targets: use another --out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rank", "0"], "The rank is 0: give at least 1"),
        (["--targets", "q_proj,k_prj"], "No linear layer of this model is named k_prj"),
        (["--mix", "1:0:1"], "The mix asks for understanding samples and the data has none"),
        (["--steps", "0"], "--steps is 0 for lora: give at least 1."),
    ],
)
def test_settings_that_make_no_sense_are_named(
    flags: list[str], sentence: str, tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    given = ["--checkpoint", str(tiny_folder), "--data", str(data), "--out", str(tmp_path / "out"), *flags]
    assert main(["train", "lora", *given]) == 2
    assert sentence in capsys.readouterr().err


def test_without_a_checkpoint_or_data_the_command_says_what_to_give(data: Path, tmp_path: Path, capsys) -> None:
    assert main(["train", "lora", "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    assert "give --checkpoint and --data" in capsys.readouterr().err


def test_captions_are_read_from_texts_and_lines(data: Path, processor) -> None:
    assert captions(data) == CAPTIONS
    (data / "more.jsonl").write_text(
        '{"image": "3.png", "prompt": "a square"}\n{"question": "what?", "answer": "a ring"}\n'
    )
    assert captions(data) == [*CAPTIONS, "a square"]
    assert set(read_folder(data, processor)) == {"generation", "text"}
    (data / "0.txt").write_text(" ")
    with pytest.raises(InputError, match=r"0\.txt has the prompt '': describe the picture in words"):
        read_folder(data, processor)
