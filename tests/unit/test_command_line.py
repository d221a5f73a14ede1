"""`python -m janus_core generate|describe`: the same functions from a shell."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import janus_core
from janus_core.__main__ import main
from janus_core.pictures import to_pil


def test_generate_prints_the_ids_and_files_of_the_pictures_python_draws(tmp_path, capsys):
    assert main(["generate", "a red circle", "--count", "2", "--seed", "7", "--output", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    janus = janus_core.load()
    tokens = janus.generate("a red circle", count=2, seed=7)
    assert printed["ids"] == tokens.ids.tolist()
    assert tuple(printed["grid"]) == tokens.grid
    assert [Path(file).name for file in printed["files"]] == ["janus_7.png", "janus_8.png"]
    for file, picture in zip(printed["files"], janus.decode(tokens), strict=True):
        with Image.open(file) as image:
            assert np.array_equal(np.asarray(image), np.asarray(to_pil(picture)))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cfg-weight", "1"),
        ("--temperature", "0"),
        ("--top-k", "1"),
        ("--top-p", "0.1"),
        ("--seed", "8"),
        ("--dialect", "FocusDiff"),
    ],
)
def test_every_setting_of_generate_changes_the_picture(tmp_path, capsys, option, value):
    ids = []
    for extra in ([], [option, value]):
        assert main(["generate", "a shape", "--output", str(tmp_path), "--json", *extra]) == 0
        ids.append(json.loads(capsys.readouterr().out)["ids"])
    assert ids[0] != ids[1]


def test_describe_prints_the_answer_about_pictures_of_different_sizes(tmp_path, capsys):
    files = []
    for i, size in enumerate([(60, 40), (31, 97)]):
        files.append(tmp_path / f"{i}.png")
        Image.effect_noise(size, 80).convert("RGBA").save(files[-1])
    question = ["--question", "Which one is brighter?", "--max-new-tokens", "6"]
    assert main(["describe", *map(str, files), *question]) == 0
    pictures = [np.asarray(Image.open(file).convert("RGB"), dtype=np.float32) / 255 for file in files]
    images = [torch.from_numpy(picture) for picture in pictures]
    answer = janus_core.load().answer("Which one is brighter?", images, max_new_tokens=6)
    assert capsys.readouterr().out.strip() == answer.strip()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["generate", " "], "prompt is empty"),
        (["generate", "a", "--checkpoint", "nowhere"], "nowhere"),
        (["generate", "a", "--count", "0"], "at least one picture"),
        (["generate", "a", "--output", __file__], "is a file"),
        (["generate", "a", "--device", "toaster"], "device toaster cannot be used"),
        (["generate", "a", "--device", "cuda:77"], "device cuda:77 cannot be used"),
        (["describe", "missing.png"], "missing.png"),
        (["describe", "--question", ""], "question is empty"),
    ],
)
def test_bad_input_is_one_sentence_on_standard_error_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and named in err and len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_module_runs_as_a_program():
    help_text = subprocess.run(
        [sys.executable, "-m", "janus_core", "generate", "--help"],
        cwd=Path(janus_core.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "strength of the prompt; 1 is no guidance (default: the checkpoint's own, usually 5)" in " ".join(
        help_text.split()
    )


def test_drawing_imports_nothing_of_training_or_benchmarks():
    code = (
        "import sys; from janus_core.__main__ import parser; parser('generate').parse_args(['generate', 'a']); "
        "print([m for m in sys.modules if m in ('scipy', 'transformers') or m.startswith(('janus_core.training', "
        "'janus_core.bench', 'janus_core.doctor', 'janus_core.mini'))])"
    )
    root = Path(janus_core.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)  # noqa: S603
    assert done.stdout.strip() == "[]"
