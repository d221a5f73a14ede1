"""Words of an answer on their way to the canvas: not more often than it needs them, and the conversation is read once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

QUESTION = {"max_tokens": 40, "temperature": 0.0, "seed": 0}


@pytest.fixture
def janus(weights: Any) -> Any:
    return weights.load_janus("janus-mini")


class Clock:
    """Each look at it takes `step` seconds."""

    def __init__(self, step: float):
        self.now, self.step = 1000.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(("step", "most"), [(0.0, 5), (0.05, 5), (0.5, 2)])
def test_words_are_sent_five_times_a_second_at_most_and_the_last_ones_always(
    pack: Any, janus: Any, monkeypatch: pytest.MonkeyPatch, step: float, most: int
) -> None:
    canvas, sent, clock = pack("nodes.host.canvas"), [], Clock(step)
    monkeypatch.setattr(canvas, "time", clock)
    monkeypatch.setattr(canvas, "show_output", lambda node, output: sent.append((clock.now, output["text"][0])))
    for end in (30, 40):  # by its last token, and by the end of the tokens allowed
        sent.clear()
        report = canvas.answer_progress(janus.core, "1", lambda text: {"text": [text]})
        word, ids = janus.core.processor.plain("red"), []
        for i in range(1, end + 1):
            ids += word if i < 30 or end == 40 else []
            report(i, 40, [ids])
        assert sent[-1][1] == janus.core.processor.decode(ids)
        times = [time for time, _ in sent[:-1]]
        assert all(sum(start <= time < start + 0.999 for time in times) <= most for start in times)
        assert len(sent) > 1


def test_a_turn_of_a_chat_and_a_question_are_tokenised_once(
    pack: Any, janus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, describe = pack("nodes.chat").JanusChat, pack("nodes.describe").JanusDescribeImage
    processor, joined, join = janus.core.processor, [], janus.core.processor._join
    monkeypatch.setattr(processor, "_join", lambda parts: joined.append(1) or join(parts))
    pictures = torch.rand(3, 96, 96, 3)
    monkeypatch.setattr(chat, "hidden", Hidden(), raising=False)
    monkeypatch.setattr(describe, "hidden", Hidden(), raising=False)
    chat.execute(janus, "Which colours are there?", **QUESTION, drop_turns=0, image=pictures)
    assert len(joined) == 1
    joined.clear()
    describe.execute(janus, pictures, "What is it?", **QUESTION)
    assert len(joined) == 1


class Hidden:
    unique_id = "1"
