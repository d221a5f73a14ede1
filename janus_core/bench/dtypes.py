"""`python -m janus_core dtypes`: each dtype's memory, computed for published sizes, and fidelity, measured on a checkpoint."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from .. import memory
from ..checkpoints import DEFAULT_CHECKPOINT, load
from ..config import JanusConfig
from ..generation.codes import CodeDraw, Drawing
from ..generation.cpu_kernels import fast_layers
from ..generation.sampling import Sampling
from ..generation.text import answer_ids
from ..pipeline import Janus
from ..precision import NAMES
from .table import markdown

SIZES = ("Janus-Pro-1B", "Janus-Pro-7B")
COUNTS = (1, 4, 16)
PROMPTS = ("a red circle", "three green squares", "a blue triangle in the top left", "a yellow square and a red circle")
TOKENS = 32  # of an answer, at most
QUESTIONS = ("Describe the picture.", "What is in the picture?")


@dataclass(frozen=True)
class Agreement:
    """How two models agree on each next token: `kl` is the mean KL divergence in nats, `same` the share of equal tokens."""

    kl: float
    same: float


def _divergence(reference: Tensor, other: Tensor) -> float:
    """The mean KL divergence of logits [rows, T, n], in nats."""
    p, q = (logits.double().log_softmax(dim=-1) for logits in (reference, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


@torch.no_grad()
def _forced_logits(janus: Janus, drawing: Drawing, codes: Tensor) -> Tensor:
    """The picture head's logits [rows, T, codes] of each code of pictures [count, T], after the codes before it."""
    prefixes = drawing.prefixes
    ids = torch.tensor(prefixes, device=janus.device).repeat_interleave(len(codes), dim=0)
    drawn = janus.model.embed_codes(codes[:, :-1].to(janus.device)).repeat(len(prefixes), 1, 1)
    hidden = janus.model.language_model.model(torch.cat((janus.model.embed_text(ids), drawn), dim=1))
    return janus.model.gen_head(hidden[:, ids.shape[1] - 1 :])


def _index(codes: Tensor, device: torch.device) -> Tensor:
    return torch.arange(codes.shape[1], device=device).expand(codes.shape)


def forced_codes(janus: Janus, prompt: str, codes: Tensor, **settings: Any) -> Tensor:
    """What `janus` draws with seeds 0, 1, ... after the codes before each of `codes` [count, T]; read at once, no steps.

    `settings` are those of `Janus.generate`.
    """
    drawing = janus.drawing_of(prompt, len(codes), **settings)
    logits = _forced_logits(janus, drawing, codes)
    return CodeDraw(drawing, janus.device, None)(logits, _index(codes, janus.device))


def drawing_agreement(reference: Janus, other: Janus, *, prompt: str, codes: Tensor) -> Agreement:
    """Over each next code of pictures, long [count, T], that `reference` drew with seeds 0, 1, ...

    The divergence is that of the guided logits before min-p, which makes it infinite.
    """
    drawing, index = reference.drawing_of(prompt, len(codes)), _index(codes, reference.device)
    expected, found = (_forced_logits(janus, drawing, codes) for janus in (reference, other))
    draw = CodeDraw(drawing, reference.device, None)
    same = float((draw(expected, index) == draw(found, index)).double().mean())
    open_to_all = replace(drawing, sampling=Sampling())
    return Agreement(_divergence(*(open_to_all.guided(logits, index) for logits in (expected, found))), same)


@torch.no_grad()
def answering_agreement(reference: Janus, other: Janus, *, question: str, picture: Tensor) -> Agreement:
    """Over each next token of the greedy answer of `reference`, of up to TOKENS, about a picture [H, W, 3]."""
    prompt = reference.processor.question_prompt(question, 1)
    [answer] = answer_ids(
        reference.model,
        *reference.embed_prompts([prompt], [picture]),
        reference.execution,
        eos=reference.processor.eos,
        max_new_tokens=TOKENS,
        sampling=Sampling(0.0),
    )

    def logits(janus: Janus) -> Tensor:
        hidden = janus.model.language_model.model(janus.embed_prompts([prompt + answer], [picture])[0])
        return janus.model.language_model.lm_head(hidden[:, len(prompt) - 1 :])

    expected, found = logits(reference), logits(other)
    return Agreement(_divergence(expected, found), float((expected.argmax(-1) == found.argmax(-1)).double().mean()))


def memory_table() -> str:
    """Published sizes in each dtype, in GB (1e9 bytes): the file, and the peak of drawing and describing COUNTS pictures."""
    lines = []
    for name in SIZES:
        config = JanusConfig.preset(name)
        for dtype in NAMES:
            sizes = [
                memory.weight_bytes(config, dtype),
                *(memory.total_drawing_bytes(config, dtype, n) for n in COUNTS),
                *(memory.total_answering_bytes(config, dtype, n) for n in COUNTS),
            ]
            lines.append([name, dtype, *(f"{size / 1e9:.1f}" for size in sizes)])
    return markdown(
        ["model", "dtype", "file", *(f"{work} {n}" for work in ("draw", "describe") for n in COUNTS)], lines
    )


def fidelity_table(checkpoint: str, device: str, *, against: str, count: int) -> str:
    """Each dtype's agreement with `against`, over `count` pictures of each of PROMPTS and answers about the first."""
    reference = load(checkpoint, device, against)
    drawn = {prompt: reference.generate(prompt, count) for prompt in PROMPTS}
    pictures = [reference.decode(tokens)[0] for tokens in drawn.values()]

    def drawing(other: Janus) -> list[str]:
        return _means(
            drawing_agreement(reference, other, prompt=prompt, codes=tokens.ids) for prompt, tokens in drawn.items()
        )

    lines = []
    for dtype in NAMES:
        other = load(checkpoint, device, dtype)
        answering = (
            answering_agreement(reference, other, question=question, picture=picture)
            for question in QUESTIONS
            for picture in pictures
        )
        lines.append([dtype, *drawing(other), *_means(answering)])
        if dtype == "int8" and device == "cpu":  # as big layers draw there; a small model has none
            with fast_layers(other.model.drawing_parts, rows=2, execution=other.execution, min_weights=1):
                lines.append([f"{dtype}, packed", *drawing(other), "", ""])
    return markdown(["dtype", "drawing: KL", "same codes", "answering: KL", "same tokens"], lines)


def _means(agreements: Iterable[Agreement]) -> list[str]:
    found = list(agreements)
    return [f"{mean(a.kl for a in found):.1g}", f"{mean(a.same for a in found):.1%}"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the `dtypes` command to argparse."""
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="what fidelity is measured on")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (fp8 rules out mps)")
    parser.add_argument("--against", default="bf16", choices=NAMES, help="the dtype that the others are compared with")
    parser.add_argument("--count", type=int, default=16, help="pictures for each prompt")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print both tables."""
    print(f"{memory_table()}\n\n{args.checkpoint} against {args.against}:\n")
    print(fidelity_table(args.checkpoint, args.device, against=args.against, count=args.count))
