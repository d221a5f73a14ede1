"""`train` and `eval` from end to end: a user's folder and the mini's world in, a folder that loads out."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from weights_digest import digest

import janus_core
from janus_core.convert import convert
from janus_core.errors import InputError
from janus_core.mini import evaluate
from janus_core.mini.drawing import DrawingSettings
from janus_core.mini.eval_prompts import CATEGORIES, choose_prompts
from janus_core.mini.geneval import draw_prompts
from janus_core.mini.judge import follows
from janus_core.mini.questions import QUESTION_CATEGORIES
from janus_core.mini.training import add_arguments
from janus_core.mini.world import world_pictures
from janus_core.training import cli
from janus_core.training.samples import read_folder

PACK = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([*arguments, "--device", "cpu", "--autocast", "fp32", "--dtype", "fp32"])
    args.run(args)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A user's folder: two pictures of odd sizes, and lines of every kind."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("wide.png", (60, 130)), ("tall.jpg", (150, 70))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    lines = [
        {"image": "wide.png", "prompt": "a red circle"},
        {"image": "tall.jpg", "question": "what is this?", "answer": "a blue ring"},
        {"images": ["wide.png", "tall.jpg"], "question": "which picture has a cross?", "answer": "the first"},
        {"question": "what comes after one?", "answer": "two"},
    ]
    (folder / "lines.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    return folder


def test_fine_tuning_on_a_users_folder_leaves_a_folder_that_loads(
    tiny_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "tuned"
    flags = ("--batch", "8", "--micro-batch", "4", "--steps", "2", "--mix", "1:1:1")
    command("stage3", "--checkpoint", str(tiny_folder), "--data", str(data), "--out", str(out), *flags)
    before, after = janus_core.load(tiny_folder), janus_core.load(out)
    assert digest(before.model.language_model) != digest(after.model.language_model)
    assert digest(before.model.gen_vision_model) == digest(after.model.gen_vision_model)
    assert after.generate("a red circle", cfg_weight=1.0).ids.shape == (1, 36)
    assert (out / "training" / "stage3.csv").exists() and (out / "training" / "stage3.png").exists()

    assert "Going on" not in capsys.readouterr().err

    command("stage3", "--checkpoint", str(tiny_folder), "--data", str(data), "--out", str(out), *flags)
    assert digest(janus_core.load(out).model) == digest(after.model), "a finished run changes nothing"
    assert f"Going on with the weights in {out}" in capsys.readouterr().err


def torchrun(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in so many processes, as a user would start them."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    flags = ("--device", "cpu", "--autocast", "fp32", "--dtype", "fp32")
    command = [*launch, "-m", "janus_core", "train", *arguments, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=PACK, env=environment, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603


def test_two_processes_take_the_steps_of_one(tiny_folder: Path, data: Path, tmp_path: Path):
    """Steps of four samples of three kinds: often a kind is absent from a process, or from its last micro-batch."""
    flags = [
        "stage3",
        "--checkpoint",
        str(tiny_folder),
        "--data",
        str(data),
        "--mix",
        "1:1:1",
        "--learning-rate",
        "1e-3",
    ]
    flags += ["--batch", "4", "--micro-batch", "1", "--decay", "0"]
    command(*flags, "--steps", "10", "--out", str(tmp_path / "one"))
    assert torchrun(2, *flags, "--steps", "6", "--out", str(tmp_path / "two")).returncode == 0
    one, two, start = (janus_core.load(f).model for f in (tmp_path / "one", tmp_path / "two", tiny_folder))
    for (name, a), b, before in zip(one.named_parameters(), two.parameters(), start.parameters(), strict=True):
        assert torch.equal(a, before) == torch.equal(b, before), name
    command(*flags, "--steps", "10", "--out", str(tmp_path / "two"))  # goes on alone
    two = janus_core.load(tmp_path / "two").model
    for (name, a), b in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.allclose(a, b[1], atol=1e-5), name
    logs = [(tmp_path / name / "training" / "stage3.csv").read_text().splitlines() for name in ("one", "two")]
    figures = [[float(value) for value in log[-1].split(",")] for log in logs]
    assert figures[0][0] == figures[1][0] == 10

    refused = torchrun(2, *flags, "--batch", "1", "--out", str(tmp_path / "three"))
    assert refused.returncode != 0
    assert "2 processes share the 1 samples of a step: give a --batch of at least one a process." in refused.stderr


@pytest.mark.skipif(
    " " in torch.__file__ + tempfile.gettempdir() and os.name != "nt",
    reason="PyTorch's compiler cannot work in a path with a space",
)
def test_compiled_steps_are_the_plain_ones(tiny_folder: Path, data: Path, tmp_path: Path):
    flags = ["--checkpoint", str(tiny_folder), "--data", str(data), "--batch", "4", "--steps", "2"]
    command("stage2", *flags, "--out", str(tmp_path / "plain"))
    command("stage2", *flags, "--out", str(tmp_path / "compiled"), "--compile")
    plain, compiled = (janus_core.load(tmp_path / name).model for name in ("plain", "compiled"))
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_compiling_says_what_stands_in_its_way(tiny_folder: Path, data: Path, tmp_path: Path, monkeypatch):
    flags = ["--checkpoint", str(tiny_folder), "--data", str(data), "--batch", "4", "--steps", "2"]
    if os.name != "nt":
        monkeypatch.setattr(shutil, "which", lambda name: name)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/with a space")
        with pytest.raises(InputError, match="--compile cannot work with a space in /"):
            command("stage2", *flags, "--out", str(tmp_path / "none"), "--compile")

    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="--compile needs"):
        command("stage2", *flags, "--out", str(tmp_path / "none"), "--compile")


def test_a_stage_that_would_undo_a_later_one_is_refused(tiny_folder: Path, data: Path, tmp_path: Path):
    out = tmp_path / "tuned"
    flags = ["--checkpoint", str(tiny_folder), "--data", str(data), "--out", str(out), "--steps", "1", "--batch", "2"]
    command("stage2", *flags)
    command("stage3", *flags)
    tuned = digest(janus_core.load(out).model)
    with pytest.raises(InputError, match="has gone on to stage3"):
        command("stage2", *flags)
    assert digest(janus_core.load(out).model) == tuned


def test_a_self_contained_file_can_be_trained_on(tiny_folder: Path, data: Path, tmp_path: Path):
    alone = convert(tiny_folder, tmp_path / "alone.safetensors", dtype="fp32")
    out = tmp_path / "tuned"
    flags = ["--data", str(data), "--out", str(out), "--steps", "1", "--batch", "2"]
    command("stage3", "--checkpoint", str(alone), *flags)
    assert janus_core.load(out).processor.roles == janus_core.load(tiny_folder).processor.roles


def test_a_janus_1_3b_keeps_its_name_so_that_its_roles_stay_plain(tiny_folder: Path, data: Path, tmp_path: Path):
    old = shutil.copytree(tiny_folder, tmp_path / "Janus-1.3B")
    flags = ["--checkpoint", str(old), "--data", str(data), "--steps", "1", "--batch", "2"]
    with pytest.raises(InputError, match=r"contain 1\.3B"):
        command("stage3", *flags, "--out", str(tmp_path / "tuned"))
    assert not (tmp_path / "tuned").exists()
    command("stage3", *flags, "--out", str(tmp_path / "tuned-1.3b"))
    assert janus_core.load(tmp_path / "tuned-1.3b").processor.roles["user"] == "User"


def test_a_checkpoints_tokenizer_learns_to_draw_its_codes_better_and_keeps_them(tiny_folder: Path, tmp_path: Path):
    out = tmp_path / "drawn"
    command("vq", "--checkpoint", str(tiny_folder), "--out", str(out), "--steps", "2", "--batch", "1")
    before, after = janus_core.load(tiny_folder), janus_core.load(out)
    pictures = torch.from_numpy(world_pictures(np.random.default_rng(1), 2)).float() / 255
    codes = before.encode(pictures)
    assert torch.equal(after.encode(pictures).ids, codes.ids)
    assert not torch.equal(after.decode(codes), before.decode(codes))
    assert digest(before.model.language_model) == digest(after.model.language_model)


def test_a_checkpoints_siglip_learns_further(tiny_folder: Path, tmp_path: Path):
    out = tmp_path / "seeing"
    command("siglip", "--checkpoint", str(tiny_folder), "--out", str(out), "--steps", "1", "--learning-rate", "1e-5")
    encoders = [janus_core.load(folder).model.vision_model.state_dict() for folder in (tiny_folder, out)]
    change = max(
        float((after - before).abs().max()) for before, after in zip(*(e.values() for e in encoders), strict=True)
    )
    assert 0 < change < 1e-4


@pytest.mark.parametrize(
    "line",
    [
        {"turns": ["a", "b"]},
        {"turns": []},
        {"image": None, "prompt": "a boat"},
        {"image": "wide.png", "prompt": " "},
        {"image": "wide.png", "prompt": 3},
        {"image": "broken.png", "prompt": "a boat"},
        {"question": " ", "answer": "yes"},
        {"question": "really?", "answer": 1},
        {"turns": [{"role": "system", "content": "hello"}, {"role": "assistant", "content": "hello"}]},
        {"image": "wide.png", "question": "<image_placeholder><image_placeholder> which?", "answer": "both"},
    ],
)
def test_a_line_that_cannot_be_learned_from_is_named_as_it_is_read(data: Path, processor, line: dict):
    (data / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (data / "more.jsonl").write_text("\n" + json.dumps(line))
    with pytest.raises(InputError, match=r"more\.jsonl line 2"):
        read_folder(data, processor)


@pytest.mark.parametrize(
    ("flags", "match"), [(["--micro-batch", "0"], "--micro-batch is 0"), (["--mix", "a:b:c"], "--mix is a:b:c")]
)
def test_settings_that_make_no_sense_are_named(tiny_folder: Path, tmp_path: Path, flags: list[str], match: str):
    with pytest.raises(InputError, match=match):
        command("stage2", "--checkpoint", str(tiny_folder), "--out", str(tmp_path / "out"), "--steps", "1", *flags)


@pytest.mark.parametrize(("phase", "setting"), [("stage2", "micro_batch"), ("vq", "batch")])
def test_a_toml_setting_of_nothing_is_named_too(tiny_folder: Path, tmp_path: Path, phase: str, setting: str):
    settings = tmp_path / "run.toml"
    settings.write_text(f"[{phase}]\nsteps = 1\n{setting} = 0\n")
    flags = ["--checkpoint", str(tiny_folder), "--out", str(tmp_path / "out"), "--config", str(settings)]
    with pytest.raises(InputError, match=f"{setting.replace('_', '-')} is 0 for {phase}"):
        command(phase, *flags)


def test_siglip_refuses_a_users_pictures(tiny_folder: Path, data: Path, tmp_path: Path):
    with pytest.raises(InputError, match="leave --data out"):
        command("siglip", "--checkpoint", str(tiny_folder), "--data", str(data), "--out", str(tmp_path / "out"))


def test_a_user_folder_gives_every_kind_of_sample(data: Path, processor):
    sources = read_folder(data, processor)
    assert set(sources) == {"generation", "understanding", "text"}
    rng = np.random.default_rng(0)
    drawn = sources["generation"](rng, 0)
    assert drawn.pictures[0].shape == (96, 96, 3) and drawn.ids == processor.drawing_prompt("a red circle")
    seen = [sources["understanding"](rng, 0) for _ in range(20)]
    assert {len(s.pictures) for s in seen} == {1, 2}
    assert all(s.ids.count(processor.image) == 36 * len(s.pictures) for s in seen)
    text = sources["text"](rng, 0)
    assert [processor.decode(text.ids[slice(*answer)]) for answer in text.answers] == ["two"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("not json", "not JSON"),
        ('{"image": "wide.png"}', "neither a prompt"),
        ('{"image": "gone.png", "prompt": "a cross"}', "gone.png"),
        ('{"prompt": "a cross"}', "exactly one"),
        ('{"turns": [{"role": "user", "content": "hello"}]}', "assistant"),
    ],
)
def test_a_bad_line_is_named(line: str, says: str, data: Path, processor):
    (data / "more.jsonl").write_text(line)
    with pytest.raises(InputError, match=says) as error:
        read_folder(data, processor)
    assert "more.jsonl line 1" in str(error.value)


def test_a_folder_without_lines_is_refused(tmp_path: Path, processor):
    with pytest.raises(InputError, match="jsonl"):
        read_folder(tmp_path, processor)


def test_a_stage_before_its_encoders_are_trained_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no trained vq"):
        command("stage1", "--out", str(tmp_path / "new"))


def test_a_tokenizer_that_does_not_know_the_world_is_refused(tiny_folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="agree"):
        command("stage2", "--checkpoint", str(tiny_folder), "--out", str(tmp_path / "new"), "--steps", "1")


@pytest.mark.parametrize("mix", ["1:2", "0:0:0", "1:-1:2"])
def test_a_mix_that_is_not_valid_is_refused(mix: str, tiny_folder: Path, data: Path, tmp_path: Path):
    where = ("--checkpoint", str(tiny_folder), "--data", str(data), "--out", str(tmp_path / "new"))
    with pytest.raises(InputError, match="mix"):
        command("stage1", *where, "--mix", mix)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_settings_come_from_toml_and_flags_win(tmp_path: Path):
    path = tmp_path / "recipe.toml"
    path.write_text("[stage2]\nsteps = 9\nbatch = 4\n")
    assert cli.read_settings(path) == {"stage2": {"steps": 9, "batch": 4}}
    path.write_text("[stage9]\n")
    with pytest.raises(InputError, match="stage9"):
        cli.read_settings(path)
    path.write_text("steps = = 3")
    with pytest.raises(InputError, match="TOML"):
        cli.read_settings(path)


def test_the_evaluation_reports_every_category_and_keeps_pictures_as_geneval_does(tiny_folder: Path, tmp_path: Path):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    flags = ["--prompts", "2", "--pictures", "2", "--cfg", "1", "2", "--answers", "2", "--reconstructions", "2"]
    args = parser.parse_args([*flags, "--out", str(tmp_path), "--keep"])
    args.seed = 0
    report = evaluate.run(args, janus_core.load(tiny_folder))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert set(report["cfg"]) == {"1", "2"}
    assert set(report["cfg"]["1"]) == {*CATEGORIES, "mean"}
    assert set(report["answers"]) == {*QUESTION_CATEGORIES, "mean"}
    homes = sorted((tmp_path / "cfg2").iterdir())
    assert [home.name for home in homes] == [f"{i:05}" for i in range(12)]
    metadata = json.loads((homes[0] / "metadata.jsonl").read_text())
    assert metadata["tag"] == "single_object" and metadata["include"][0]["count"] == 1
    assert Image.open(homes[0] / "samples" / "00001.png").size == (96, 96)
    # What is kept is what was judged: the scores can be had again from the files.
    prompts = choose_prompts(2)
    again = [
        np.mean([follows(np.asarray(Image.open(file)), p.request) for file in sorted((home / "samples").iterdir())])
        for p, home in zip(prompts, homes, strict=True)
    ]
    assert evaluate.summarise(prompts, [float(s) for s in again]) == report["cfg"]["2"]


def test_scores_are_means_over_prompts_seen_and_held_out():
    prompts = choose_prompts(4)
    shares = [0.25 if prompt.held_out else 0.75 for prompt in prompts]
    table = evaluate.summarise(prompts, shares)
    assert table["counting"] == {"all": 0.5, "seen": 0.75, "held_out": 0.25, "prompts": 4}
    assert table["mean"] == {"all": 0.5, "seen": 0.75, "held_out": 0.25}


def test_genevals_own_prompts_are_drawn_into_its_layout(tiny_folder: Path, tmp_path: Path):
    lines = [{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    janus = janus_core.load(tiny_folder)
    settings = DrawingSettings(pictures=2, seed=4, cfg_weight=2.0, temperature=1.0, top_p=1.0, min_p=0.0)
    prompts = tmp_path / "metadata.jsonl"
    assert draw_prompts(janus, prompts, folder=tmp_path / "out", settings=settings) == 1
    assert json.loads((tmp_path / "out" / "00000" / "metadata.jsonl").read_text()) == lines[0]
    drawn = janus.decode(janus.generate("a photo of a bench", 2, seed=4, cfg_weight=2.0))[1]
    kept = np.asarray(Image.open(tmp_path / "out" / "00000" / "samples" / "00001.png"))
    assert np.array_equal(kept, (drawn * 255).round().to(torch.uint8).numpy())
