"""Load Janus in several dialects: the weights are there once, and only they are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TINY = Path(__file__).parents[1] / "data" / "tiny_deepseek"


def test_two_dialects_of_the_same_files_share_the_weights_and_nothing_else(weights: Any) -> None:
    pro = weights.load_janus(TINY, "fp32")
    r1 = weights.load_janus(TINY, "fp32", "T2I-R1")
    assert r1.core.model is pro.core.model
    assert r1._patchers == pro._patchers
    assert (pro.core.processor.dialect.name, r1.core.processor.dialect.name) == ("Janus-Pro", "T2I-R1")
    assert r1.core.processor.drawing_prompt("a cat") != pro.core.processor.drawing_prompt("a cat")
    assert weights.load_janus(TINY, "fp32", "T2I-R1") is r1
    assert weights.load_janus(TINY, "fp32", "Janus-Pro") is pro  # what auto is, by its name
    alone = weights.load(TINY, dialect="T2I-R1").generate("a cat", seed=1)
    assert r1.core.generate("a cat", seed=1).ids.tolist() == alone.ids.tolist()
    expected = weights.load(TINY).generate("a cat", seed=1)
    assert pro.core.generate("a cat", seed=1).ids.tolist() == expected.ids.tolist()


def test_a_dialect_of_its_own_keeps_the_weights_alive(weights: Any) -> None:
    first = weights.load_janus(TINY, "fp32")
    model, second = first.core.model, weights.load_janus(TINY, "fp32", "FocusDiff")
    del first
    assert weights.load_janus(TINY, "fp32").core.model is model
    assert second.core.defaults.top_k == 1


def test_an_unknown_dialect_is_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="no dialect 'Klingon'"):
        weights.load_janus(TINY, "fp32", "Klingon")
