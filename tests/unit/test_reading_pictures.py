"""Picture files as the nodes' loaders give them: upright, transparency over white."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import janus_core
from janus_core import InputError
from janus_core.__main__ import main
from janus_core.pictures import read_picture
from janus_core.training.samples import folder_pictures, read_folder

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"


def sideways(path: Path) -> Image.Image:
    """Writes a phone's photo, 60 x 40 on disk and to be turned a quarter; returns it upright."""
    upright = Image.new("RGB", (40, 60), "red")
    upright.paste("blue", (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    return upright


def see_through(path: Path, mode: str) -> Image.Image:
    """Writes a picture whose left half is transparent black; returns what is to be seen."""
    image = Image.new("RGBA", (40, 40), "red")
    image.paste((0, 0, 0, 0), (0, 0, 20, 40))
    seen = Image.new("RGB", (40, 40), "red")
    seen.paste("white", (0, 0, 20, 40))
    if mode == "LA":
        seen = seen.convert("L").convert("RGB")
    if mode == "P":
        image = image.quantize(4)
    image.convert(mode).save(path)
    return seen


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    seen = see_through(tmp_path / "a.png", mode)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), np.asarray(seen))


def test_a_photo_is_turned_upright(tmp_path):
    upright = sideways(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.png")), np.asarray(upright))


def test_the_command_line_and_training_read_pictures_in_this_way(tmp_path, monkeypatch, capsys):
    upright, asked = sideways(tmp_path / "a.png"), []
    monkeypatch.setattr(janus_core.Janus, "answer", lambda self, question, images, **_: asked.extend(images) or "")
    assert main(["describe", str(tmp_path / "a.png"), "--checkpoint", str(TINY)]) == 0
    assert np.array_equal(asked[0].numpy() * 255, np.asarray(upright))
    line = {"image": "a.png", "question": "What is it?", "answer": "A flag."}
    (tmp_path / "data.jsonl").write_text(json.dumps(line))
    rng = np.random.default_rng(0)
    sample = read_folder(tmp_path, janus_core.load(TINY).processor)["understanding"](rng, 0)
    assert np.array_equal(sample.pictures[0], np.asarray(upright))
    assert folder_pictures(tmp_path, 40)(rng, 1)[0][0, 20].tolist() in ([0, 0, 255], [255, 0, 0])
    assert np.array_equal(folder_pictures(tmp_path, 40)(rng, 1)[0], np.asarray(upright.crop((0, 10, 40, 50))))


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_what_is_no_picture_is_said(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png is not a picture that can be read"):
        read_picture(tmp_path / "a.png")
