"""How well a Janus follows prompts and answers questions in the mini's world: GenEval's six categories, and answers.

Every category has as many prompts from combinations held out of training as from others, in the same wording, so that
following can be told from memory. Pictures are judged by pixels (judge.py); answers by exact match.
"""

import argparse
import json
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..pipeline import Janus, Pictures
from .captions import OPENINGS, QUESTION_KINDS, name
from .geneval import draw_prompts, write_prompt
from .judge import Request, Wanted, follows
from .samples import ask, turns_of
from .sheet import contact_sheet
from .world import COLOURS, PLACES, SHAPES, SIZES, is_held_out, render, sample_scene

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
CFG_WEIGHTS = (1.0, 2.0, 3.0, 5.0, 7.0)


@dataclass(frozen=True)
class Prompt:
    """A drawing prompt, what a picture must show, and whether it names a combination held out from training."""

    category: str
    text: str
    request: Request
    held_out: bool


def all_prompts() -> list[Prompt]:
    """Every prompt of the six categories that the world allows."""
    found: list[Prompt] = []

    def add(category: str, text: str, request: Request, *combination: str) -> None:
        for opening in OPENINGS[:3]:
            found.append(Prompt(category, f"{opening} {text}", request, is_held_out(*combination)))

    builds = [Wanted(shape, size=size) for shape in SHAPES for size in SIZES]
    looks = [Wanted(shape, colour) for shape in SHAPES for colour in COLOURS]
    for category, kinds in (("single_object", builds), ("colors", looks)):
        for kind, (cell, place) in product(kinds, enumerate(PLACES)):
            there = Wanted(kind.shape, kind.colour, kind.size, cell)
            add(category, f"{name(kind)} in the {place}", Request((there,)), _words(kind), place)
    for a, b in permutations(builds, 2):
        if a.shape != b.shape:
            text = f"{name(a)} and {name(b)}"
            add("two_object", text, Request((a, b)), _words(a), _words(b))
            for relation in ("left of", "right of", "above", "below"):
                text = f"{name(a)} {relation} {name(b)}"
                add("position", text, Request((a, b), relation), _words(a), _words(b))
    for a, b in permutations(looks, 2):
        if a.shape != b.shape and a.colour != b.colour:
            add("color_attr", f"{name(a)} and {name(b)}", Request((a, b)), _words(a), _words(b))
    for look, count in product(looks, (2, 3, 4)):
        add("counting", name(look, count), Request((look,) * count), _words(look), f"{count} times")
    return found


def _words(wanted: Wanted) -> str:
    return f"{wanted.size or wanted.colour} {wanted.shape}"


def choose_prompts(per_category: int, seed: int = 0) -> list[Prompt]:
    """`per_category` prompts of each category, half of them held out (or all there are), by a fixed draw."""
    rng = np.random.default_rng(seed)
    every, chosen = all_prompts(), []
    for category, held_out in product(CATEGORIES, (False, True)):
        fitting = [p for p in every if p.category == category and p.held_out == held_out]
        chosen += [fitting[i] for i in sorted(rng.permutation(len(fitting))[: per_category // 2])]
    return chosen


def draw(
    janus: Janus,
    prompts: list[Prompt],
    pictures: int,
    cfg_weight: float,
    temperature: float,
    top_p: float,
    seed: int,
    folder: Path | None = None,
) -> list[float]:
    """The share of `pictures` pictures that follow each prompt; with `folder`, kept there in GenEval's layout."""
    shares = []
    for index, prompt in enumerate(prompts):
        tokens = janus.generate(
            prompt.text,
            pictures,
            seed=seed + index * pictures,
            cfg_weight=cfg_weight,
            temperature=temperature,
            top_p=top_p,
        )
        drawn = (janus.decode(tokens) * 255).round().to(torch.uint8).cpu().numpy()
        shares.append(float(np.mean([follows(picture, prompt.request) for picture in drawn])))
        if folder:
            write_prompt(folder, index, metadata_of(prompt), drawn)
    return shares


def metadata_of(prompt: Prompt) -> dict:
    """The prompt as a line of GenEval's `evaluation_metadata.jsonl`."""
    include: list[dict] = []
    for thing in prompt.request.things:
        entry = {"class": thing.shape, "count": 1}
        entry |= {"color": thing.colour} if thing.colour else {}
        if include and all(include[-1].get(key) == entry.get(key) for key in ("class", "color")):
            include[-1]["count"] += 1
        else:
            include.append(entry)
    if prompt.request.relation:  # GenEval lets the second entry lie somewhere to the first
        include = [include[1], include[0] | {"position": [prompt.request.relation, 0]}]
    return {"tag": prompt.category, "include": include, "prompt": prompt.text, "held_out": prompt.held_out}


def summarise(prompts: list[Prompt], shares: list[float]) -> dict:
    """Scores by category: all, seen, held out; and their means over the categories."""
    table = {}
    for category in CATEGORIES:
        mine = [(p.held_out, s) for p, s in zip(prompts, shares, strict=True) if p.category == category]
        table[category] = {
            "all": float(np.mean([s for _, s in mine])),
            "seen": float(np.mean([s for held, s in mine if not held])),
            "held_out": float(np.mean([s for held, s in mine if held])),
            "prompts": len(mine),
        }
    table["mean"] = {key: float(np.mean([table[c][key] for c in CATEGORIES])) for key in ("all", "seen", "held_out")}
    return table


def score_answers(janus: Janus, per_kind: int, seed: int = 0, batch: int = 16) -> dict:
    """Exact-match accuracy by question kind, on pictures of which half hold a held-out combination."""
    table = {}
    for number, kind in enumerate(QUESTION_KINDS):
        rng = np.random.default_rng([seed, number])
        asked = [(*ask(kind, rng, held_out=bool(i % 2)), bool(i % 2)) for i in range(per_kind)]
        right: dict[bool, list[bool]] = {False: [], True: []}
        for start in range(0, len(asked), batch):
            part = asked[start : start + batch]
            pictures: list[Pictures] = [
                [torch.from_numpy(render(scene).astype(np.float32) / 255) for scene in scenes] for _, scenes, _ in part
            ]
            said = janus.answer_batch([turns_of(e) for e, _, _ in part], pictures, max_new_tokens=32)
            for (exchange, _, held_out), words in zip(part, said, strict=True):
                right[held_out].append(words.strip() == exchange.answer)
        both = [*right[False], *right[True]]
        table[kind] = {
            "all": float(np.mean(both)),
            "seen": float(np.mean(right[False])),
            "held_out": float(np.mean(right[True])),
        }
    table["mean"] = {
        key: float(np.mean([table[k][key] for k in QUESTION_KINDS])) for key in ("all", "seen", "held_out")
    }
    return table


def score_reconstructions(janus: Janus, count: int, seed: int = 0) -> float:
    """The share of pictures that still show everything just so after VQ encode and decode."""
    rng = np.random.default_rng(seed)
    right = 0
    for index in range(count):
        groups = ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1), (3,), (4,))[index % 6]
        scene = sample_scene(rng, groups, held_out=bool(index // 6 % 2))
        picture = torch.from_numpy(render(scene).astype(np.float32) / 255)[None]
        drawn = (janus.decode(janus.encode(picture))[0] * 255).round().to(torch.uint8).cpu().numpy()
        wanted = tuple(Wanted(t.shape, t.colour, t.size, t.cell) for t in scene.things)
        right += follows(drawn, Request(wanted, background=scene.background))
    return right / count


def format_table(title: str, table: dict) -> str:
    """A table of scores as plain text."""
    lines = [f"{title:18}{'all':>8}{'seen':>8}{'held out':>10}"]
    lines += [f"{row:18}{v['all']:8.3f}{v['seen']:8.3f}{v['held_out']:10.3f}" for row, v in table.items()]
    return "\n".join(lines)


def markdown(report: dict) -> str:
    """The report as a model card shows it: drawing at the best CFG weight, and answers."""
    lines = []
    for title, table in (("drawing", report["cfg"].get(report.get("best_cfg"))), ("answering", report.get("answers"))):
        if table:
            lines += [f"| {title} | all | seen | held out |", "|---|---|---|---|"]
            lines += [
                f"| {row.replace('_', ' ')} | {v['all']:.2f} | {v['seen']:.2f} | {v['held_out']:.2f} |"
                for row, v in table.items()
            ]
            lines.append("")
    means = ", ".join(f"{weight}: {table['mean']['all']:.2f}" for weight, table in report["cfg"].items())
    return "\n".join([*lines, f"Means by CFG weight: {means}."])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the `eval` command to argparse; it also takes --checkpoint, --device, --dtype and --seed."""
    parser.add_argument("--prompts", type=int, default=50, help="prompts a category, half of them held out; 0 = none")
    parser.add_argument("--pictures", type=int, default=4, help="pictures a prompt")
    parser.add_argument("--cfg", type=float, nargs="+", default=list(CFG_WEIGHTS), help="CFG weights to try")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--answers", type=int, default=100, help="questions a kind, half of them held out; 0 = none")
    parser.add_argument("--reconstructions", type=int, default=300, help="pictures through the VQ tokenizer; 0 = none")
    parser.add_argument("--out", type=Path, help="folder for report.json and scores.md")
    parser.add_argument("--sheet", type=Path, help="draw a contact sheet at the best CFG weight into this file")
    parser.add_argument("--keep", action="store_true", help="keep the pictures there, in GenEval's layout")
    parser.add_argument("--geneval", type=Path, help="GenEval's evaluation_metadata.jsonl: only draw it into --out")


def run(args: argparse.Namespace, janus: Janus) -> dict:
    """Score `janus`, print tables as they come, write `report.json` and `scores.md`; or, with --geneval, draw its prompts.

    Raises InputError when pictures are to be kept and there is no folder for them, or numbers are odd.
    """
    out: Path | None = args.out
    if out is None and (args.keep or args.geneval):
        raise InputError("Pictures are to be kept and there is no folder for them: give --out.")
    for option, value in (("--prompts", args.prompts), ("--answers", args.answers)):
        if value % 2 or value < 0:
            raise InputError(f"{option} is {value}: half of them are held out, so give an even number, or 0.")
    if args.geneval and out:
        drawn = draw_prompts(
            janus, args.geneval, out, args.pictures, args.cfg[0], args.temperature, args.top_p, args.seed
        )
        print(f"{drawn} prompts, {args.pictures} pictures each, at CFG weight {args.cfg[0]:g} in {out}")
        return {"prompts": drawn}
    report: dict = {"pictures_a_prompt": args.pictures, "temperature": args.temperature, "top_p": args.top_p}
    report |= {"seed": args.seed, "cfg": {}}
    if args.reconstructions:
        report["reconstructions"] = score_reconstructions(janus, args.reconstructions)
        print(f"VQ reconstructions that pass the judge: {report['reconstructions']:.3f} of {args.reconstructions}")
    if args.answers:
        report["answers"] = score_answers(janus, args.answers)
        print(format_table(f"answers ({args.answers} each)", report["answers"]), flush=True)
    prompts = choose_prompts(args.prompts)
    for weight in args.cfg if prompts else ():
        folder = out / f"cfg{weight:g}" if out and args.keep else None
        shares = draw(janus, prompts, args.pictures, weight, args.temperature, args.top_p, args.seed, folder)
        report["cfg"][f"{weight:g}"] = summarise(prompts, shares)
        print(format_table(f"CFG weight {weight:g}", report["cfg"][f"{weight:g}"]), flush=True)
    if report["cfg"]:
        report["best_cfg"] = max(report["cfg"], key=lambda w: report["cfg"][w]["mean"]["all"])
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (out / "scores.md").write_text(markdown(report) + "\n", encoding="utf-8")
    if args.sheet:
        best = float(report.get("best_cfg", args.cfg[0]))
        contact_sheet(janus, best, args.cfg, args.temperature, args.top_p).save(args.sheet)
    return report
