"""Frames of pictures that are being drawn: what they show, and that they take no more time than they may."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def preview(pack: Any) -> ModuleType:
    return pack("nodes.preview")


@pytest.fixture
def method() -> Iterator[Any]:
    """Sets --preview-method."""
    from comfy.cli_args import LatentPreviewMethod, args

    before = args.preview_method

    def choose(name: str) -> None:
        args.preview_method = LatentPreviewMethod(name)

    yield choose
    args.preview_method = before


def drawn(weights: Any, preview: ModuleType, count: int = 3) -> tuple[Any, Any, list[Image.Image], torch.Tensor]:
    """The preview and what it shows of `count` pictures, given all the time it wants, and the finished pictures."""
    janus = weights.load_janus("janus-mini")
    watching = preview.preview_of(janus)
    watching.start -= 1e6
    core = janus.ready(janus.core.drawing_need("a red circle on a black background", count, cfg_weight=1.5))
    frames = []

    def progress(step: int, total: int, ids: torch.Tensor) -> None:
        if frame := watching(step, total, ids):
            frames.append(frame)

    tokens = core.generate("a red circle on a black background", count, cfg_weight=1.5, progress=progress)
    return watching, tokens, frames, janus.decode(tokens)


def as_array(frame: Image.Image) -> np.ndarray:
    return np.asarray(frame).astype(int)


def test_none_makes_nothing(weights: Any, preview: ModuleType, method: Any) -> None:
    method("none")
    assert preview.preview_of(weights.load_janus("janus-mini")) is None


@pytest.mark.parametrize("name", ["auto", "latent2rgb", "taesd"])
def test_each_frame_has_one_row_more_of_every_picture(
    weights: Any, preview: ModuleType, method: Any, name: str
) -> None:
    method(name)
    watching, _, frames, pictures = drawn(weights, preview)
    assert len(frames) == 5  # of 6 rows: the last is the pictures' own
    last = as_array(watching.sheet(pictures))
    side = (last.shape[0] - preview.GAP) // 2
    corners = [(0, 0), (0, side + preview.GAP), (side + preview.GAP, 0)]  # three pictures in a square of four
    for rows, frame in enumerate(map(as_array, frames), 1):
        assert frame.shape == last.shape
        for y, x in corners:
            tile = frame[y : y + side, x : x + side]
            edge = side * rows // 6
            assert (tile[edge:] == preview.EMPTY_COLOUR).all()
            assert not (tile[:edge] == preview.EMPTY_COLOUR).all(axis=2).any(axis=1).all()
    assert (as_array(frames[-1])[side + preview.GAP :, side + preview.GAP :] == preview.GAP_COLOUR).all()


def test_decoded_frames_are_nearer_the_picture_than_plain_colours(
    weights: Any, preview: ModuleType, method: Any
) -> None:
    errors = {}
    for name in ("latent2rgb", "taesd"):
        method(name)
        watching, _, frames, pictures = drawn(weights, preview, count=1)
        last = as_array(watching.sheet(pictures))
        drawn_rows = last.shape[0] * 5 // 6
        errors[name] = np.abs(as_array(frames[-1]) - last)[:drawn_rows].mean()
    assert errors["taesd"] < errors["latent2rgb"] < 60


def test_no_frame_when_there_is_no_time_for_one(weights: Any, preview: ModuleType, method: Any) -> None:
    method("taesd")
    watching, tokens, _, _ = drawn(weights, preview, count=1)
    late = preview.Preview(watching.core, watching.colours, decodes=True)
    late.start -= 100
    late.spent = 100 * preview.MAX_TIME_SHARE + 1
    assert late(6, 36, tokens.ids[:, :6]) is None
    late.spent = 0.0
    late.costs = {draw: 100.0 if draw == late._decoded else 1e-9 for draw in late.costs}
    plain = as_array(late(12, 36, tokens.ids[:, :12]))
    late.costs = dict.fromkeys(late.costs, 0.0)
    decoded = as_array(late(18, 36, tokens.ids[:, :18]))
    height = plain.shape[0] // 3
    assert np.abs(plain[:height] - decoded[:height]).mean() > 1
    assert late.spent > 0
    late.costs = dict.fromkeys(late.costs, 100.0)
    assert late(24, 36, tokens.ids[:, :24]) is None


def test_quick_steps_are_reported_now_and_then_and_the_last_one_always(
    pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.utils

    sent: list[tuple[int, int]] = []
    hook = lambda value, total, preview, node_id=None: sent.append((value, total))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    report = pack("nodes.host.canvas").progress(run=1, runs=2)
    for step in range(1, 1001):
        report(step, 1000, None)
    assert sent[0] == (1001, 2000) and sent[-1] == (2000, 2000)
    assert len(sent) < 200


def test_an_interrupt_stops_at_each_step_reported_or_not(pack: Any) -> None:
    import comfy.model_management as management

    report = pack("nodes.host.canvas").progress()
    report(1, 1000, None)
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        report(2, 1000, None)
    report(3, 1000, None)
