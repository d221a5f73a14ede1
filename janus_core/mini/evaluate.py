"""`python -m janus_core eval`: how well a Janus draws and answers in the mini's world.

Drawing is scored by GenEval's six categories, answers by exact match. Half of the prompts and questions of each kind
are about combinations held out of training, in the same wording, to tell composition from memorisation.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..checkpoints import load
from ..errors import InputError
from ..pictures import from_uint8
from ..pipeline import Janus
from .drawing import DrawingSettings, decode
from .eval_prompts import CATEGORIES, Prompt, choose_prompts, metadata_of
from .geneval import draw_prompts, write_prompt
from .judge import follows
from .judged import score_judging
from .questions import QUESTION_CATEGORIES, ask
from .repainted import score_canvas
from .request import Request
from .sheet import contact_sheet
from .world import render, sample_scene

SPLITS = {"all": (False, True), "seen": (False,), "held_out": (True,)}  # by whether a combination is held out
BATCH = 16  # questions answered at once
CFG_WEIGHTS = (1.0, 2.0, 3.0, 5.0, 8.0)


def draw(janus: Janus, prompts: list[Prompt], settings: DrawingSettings, *, folder: Path | None = None) -> list[float]:
    """The share of each prompt's pictures that follow it; `folder` keeps them in GenEval's layout."""
    shares = []
    for index, prompt in enumerate(prompts):
        drawn = settings.draw(janus, prompt.text, index)
        shares.append(float(np.mean([follows(picture, prompt.request) for picture in drawn])))
        if folder:
            write_prompt(folder, index, metadata=metadata_of(prompt), pictures=drawn)
    return shares


def _means(scores: list[tuple[bool, float]]) -> dict[str, float]:
    """Means of (held out, score) by SPLITS."""
    return {
        split: float(np.mean([score for held_out, score in scores if held_out in parts]))
        for split, parts in SPLITS.items()
    }


def _mean_row(table: dict[str, dict]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in table.values()])) for key in SPLITS}


def summarise(prompts: list[Prompt], shares: list[float]) -> dict:
    """Scores by category (all, seen, held out) and their means over the categories."""
    table = {}
    for category in CATEGORIES:
        scores = [(p.held_out, s) for p, s in zip(prompts, shares, strict=True) if p.category == category]
        table[category] = _means(scores) | {"prompts": len(scores)}
    return table | {"mean": _mean_row(table)}


def score_answers(janus: Janus, per_category: int) -> dict:
    """The share of exactly right answers by category of question; half of the pictures show a held-out combination."""
    table = {}
    for number, category in enumerate(QUESTION_CATEGORIES):
        rng = np.random.default_rng([0, number])
        asked = [(*ask(category, rng, held_out=bool(i % 2)), bool(i % 2)) for i in range(per_category)]
        scores: list[tuple[bool, float]] = []
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            answers = janus.answer_batch(
                [exchange.question_turns() for exchange, _, _ in part],
                [[from_uint8(render(scene)) for scene in scenes] for _, scenes, _ in part],
                max_new_tokens=32,
            )
            for (exchange, _, held_out), answer in zip(part, answers, strict=True):
                scores.append((held_out, answer.strip() == exchange.answer))
        table[category] = _means(scores)
    return table | {"mean": _mean_row(table)}


def score_reconstructions(janus: Janus, count: int) -> float:
    """The share of pictures that still show every object and the background after VQ encode and decode."""
    rng = np.random.default_rng(0)
    right = 0
    for index in range(count):
        group_sizes = ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1), (3,), (4,))[index % 6]
        scene = sample_scene(rng, group_sizes, held_out=bool(index // 6 % 2))
        reconstruction = decode(janus, janus.encode(from_uint8(render(scene))[None]))[0]
        right += follows(reconstruction, Request(scene.things, background=scene.background))
    return right / count


def format_table(title: str, table: dict) -> str:
    """A table of scores as plain text."""
    lines = [f"{title:18}{'all':>8}{'seen':>8}{'held out':>10}"]
    lines += [f"{row:18}{v['all']:8.3f}{v['seen']:8.3f}{v['held_out']:10.3f}" for row, v in table.items()]
    return "\n".join(lines)


def markdown(report: dict) -> str:
    """The report as the model card shows it: drawing at the best CFG weight, and answers."""
    lines = []
    for title, table in (("drawing", report["cfg"].get(report.get("best_cfg"))), ("answering", report.get("answers"))):
        if table:
            lines += [f"| {title} | all | seen | held out |", "|---|---|---|---|"]
            lines += [
                f"| {row.replace('_', ' ')} | {v['all']:.2f} | {v['seen']:.2f} | {v['held_out']:.2f} |"
                for row, v in table.items()
            ]
            lines.append("")
    means = (f"{weight}: {table['mean']['all']:.2f}" for weight, table in report["cfg"].items())
    return "\n".join([*lines, f"Means by CFG weight: {', '.join(means)}."])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the `eval` command to argparse; it also takes --checkpoint, --device, --dtype and --seed."""
    parser.add_argument("--prompts", type=int, default=50, help="prompts a category, half of them held out; 0 = none")
    parser.add_argument("--pictures", type=int, default=4, help="pictures a prompt")
    parser.add_argument("--cfg", type=float, nargs="+", default=list(CFG_WEIGHTS), help="CFG weights to try")
    parser.add_argument("--temperature", type=float, help="(default: the checkpoint's own)")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, help="(default: the checkpoint's own)")
    parser.add_argument(
        "--answers", type=int, default=100, help="questions a category, half of them held out; 0 = none"
    )
    parser.add_argument("--reconstructions", type=int, default=300, help="pictures through the VQ tokenizer; 0 = none")
    parser.add_argument("--canvas", type=int, default=0, help="cases of repainting, continuing and varying; 0 = none")
    parser.add_argument("--judge", type=int, default=0, help="cases of judging and picking its own pictures; 0 = none")
    parser.add_argument("--out", type=Path, help="folder for report.json and scores.md")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet at the best CFG weight into this file")
    parser.add_argument("--keep", action="store_true", help="keep the pictures there, in GenEval's layout")
    parser.add_argument("--geneval", type=Path, help="GenEval's evaluation_metadata.jsonl: only draw it into --out")
    parser.set_defaults(
        run=lambda args: run(args, load(args.checkpoint, args.device, args.dtype, dialect=args.dialect))
    )


def run(args: argparse.Namespace, janus: Janus) -> dict:
    """Score `janus`, print each table when it is ready, and write `report.json` and `scores.md`.

    With --geneval only draw GenEval's prompts. Raises InputError where pictures are to be kept and --out is missing,
    and for an odd number of prompts or questions.
    """
    out: Path | None = args.out
    if out is None and (args.keep or args.geneval):
        raise InputError("Pictures are to be kept and there is no folder for them: give --out.")
    for option, value in (("--prompts", args.prompts), ("--answers", args.answers)):
        if value % 2 or value < 0:
            raise InputError(f"{option} is {value}: half of them are held out, so give an even number, or 0.")
    settings = DrawingSettings(
        pictures=args.pictures,
        seed=args.seed,
        cfg_weight=args.cfg[0],
        temperature=args.temperature,
        top_p=args.top_p,
        min_p=args.min_p,
    )
    if args.geneval and out:
        count = draw_prompts(janus, args.geneval, folder=out, settings=settings)
        print(f"{count} prompts, {args.pictures} pictures each, at CFG weight {args.cfg[0]:g} in {out}")
        return {"prompts": count}
    report: dict = {
        "pictures_a_prompt": args.pictures,
        "temperature": janus.defaults.temperature if args.temperature is None else args.temperature,
        "top_p": args.top_p,
        "min_p": janus.defaults.min_p if args.min_p is None else args.min_p,
        "seed": args.seed,
        "cfg": {},
    }
    if args.reconstructions:
        report["reconstructions"] = score_reconstructions(janus, args.reconstructions)
        print(f"VQ reconstructions that pass the judge: {report['reconstructions']:.3f} of {args.reconstructions}")
    if args.answers:
        report["answers"] = score_answers(janus, args.answers)
        print(format_table(f"answers ({args.answers} each)", report["answers"]), flush=True)
    for name, cases, score in (("canvas", args.canvas, score_canvas), ("judge", args.judge, score_judging)):
        if cases:
            report[name] = score(janus, cases)
            print("\n".join(f"{what}: {value}" for what, value in report[name].items()), flush=True)
    prompts = choose_prompts(args.prompts)
    for weight in args.cfg if prompts else ():
        name = f"{weight:g}"
        folder = out / f"cfg{name}" if out and args.keep else None
        shares = draw(janus, prompts, replace(settings, cfg_weight=weight), folder=folder)
        report["cfg"][name] = summarise(prompts, shares)
        print(format_table(f"CFG weight {name}", report["cfg"][name]), flush=True)
    if report["cfg"]:
        report["best_cfg"] = max(report["cfg"], key=lambda w: report["cfg"][w]["mean"]["all"])
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (out / "scores.md").write_text(markdown(report) + "\n", encoding="utf-8")
    if args.sheet:
        settings = replace(settings, cfg_weight=float(report.get("best_cfg", args.cfg[0])))
        contact_sheet(janus, settings, cfg_weights=args.cfg).save(args.sheet)
    return report
