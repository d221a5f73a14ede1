"""The command line: `python -m janus_core COMMAND`, over the same functions as Python and ComfyUI."""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import DEFAULT_CHECKPOINT, CheckpointError, InputError, dialects, load
from .convert import convert
from .errors import MemoryExhaustedError
from .pictures import from_uint8, read_picture, to_pil
from .pipeline import SAMPLERS
from .precision import NAMES
from .thinking import think_and_draw


class Bar:
    """A progress bar on standard error, drawn by generation's `progress` calls."""

    def __init__(self, unit: str):
        self.bar = tqdm(unit=unit, file=sys.stderr, disable=None)

    def __call__(self, step: int, total: int, tokens: Any) -> None:
        self.bar.total = total
        self.bar.update(step - self.bar.n)
        if step == total:
            self.bar.close()


def options(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The named options as keyword arguments."""
    return {name: getattr(args, name) for name in names}


def generate(args: argparse.Namespace) -> None:
    """Draw pictures into the output folder, one PNG a seed, or one for each prompt of a list."""
    settings = options(args, "seed", "cfg_weight", "temperature", "top_k", "top_p", "min_p", "sampler", "window")
    if (args.prompt is None) == (args.prompts is None):
        raise InputError("generate takes either a prompt or --prompts with a list of them.")
    if args.prompts is not None:
        from .batch.command import generate_list

        return generate_list(args, settings)
    if args.batch is not None or args.ray:
        raise InputError("--batch and --ray are for a list: give --prompts.")
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output} is a file: give a folder as --output.")
    janus = load(args.checkpoint, args.device, args.dtype, dialect=args.dialect)
    if args.think:
        settings |= {"thinking": Bar("token"), "progress": Bar("step")}
        tokens, thoughts = think_and_draw(janus, args.prompt, args.count, **settings)
    else:
        tokens, thoughts = janus.generate(args.prompt, args.count, **settings, progress=Bar("step")), []
    args.output.mkdir(parents=True, exist_ok=True)
    files = [args.output / f"janus_{args.seed + i}.png" for i in range(len(tokens))]
    for file, picture in zip(files, janus.decode(tokens), strict=True):
        to_pil(picture).save(file)
    if args.json:
        report = {"ids": tokens.ids.tolist(), "grid": tokens.grid, "files": [str(file) for file in files]}
        print(json.dumps(report | ({"thoughts": [thought.text for thought in thoughts]} if args.think else {})))
    else:
        for thought in thoughts:
            print(thought.text, file=sys.stderr)
        print(*files, sep="\n")


def describe(args: argparse.Namespace) -> None:
    """Answer a question about one or several pictures, or about each picture of a list."""
    if args.output is not None:
        from .batch.command import describe_list

        return describe_list(args)
    if args.batch is not None or args.ray or args.preset or args.trigger or args.prefix or args.suffix:
        raise InputError("--batch, --ray, --preset, --trigger, --prefix and --suffix are for a list: give --out.")
    janus = load(args.checkpoint, args.device, args.dtype, dialect=args.dialect)
    images = [from_uint8(np.array(read_picture(path))) for path in args.pictures]
    settings = options(args, "max_new_tokens", "temperature", "seed")
    print(janus.answer(args.question, images, **settings, progress=Bar("token")))


def convert_command(args: argparse.Namespace) -> None:
    """Write a checkpoint as a single self-contained file."""
    print(convert(args.checkpoint, args.file, dtype=args.dtype, progress=Bar("tensor")))


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds "(default: ...)" to the help of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


# Imported on demand, because drawing does not need these modules: each has a function `add_arguments`.
LAZY_COMMANDS = {
    "train": (".mini.training", "train the mini Janus, or fine-tune a checkpoint"),
    "eval": (".mini.evaluate", "score drawing and answering in the mini's world"),
    "dtypes": (".bench.dtypes", "show what each dtype costs in memory and fidelity"),
    "bench": (".bench.command", "measure speed, compared with the memory-bandwidth limit"),
    "doctor": (".doctor", "check this machine; for bug reports"),
}


def parser(chosen: str) -> argparse.ArgumentParser:
    """The commands' arguments; those of LAZY_COMMANDS only for the `chosen` one."""
    main = argparse.ArgumentParser(prog="python -m janus_core", description="Draw and describe pictures with Janus.")
    commands = main.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="folder, weight file or embedded name")
    common.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    common.add_argument("--dtype", default="fp32", choices=NAMES, help="type of the weights")
    common.add_argument(
        "--dialect", choices=dialects.NAMES, help="how to speak to the model (default: what its files or name tell)"
    )
    common.add_argument("--seed", type=int, default=0, help="picture or answer i uses seed + i")

    lists = argparse.ArgumentParser(add_help=False)
    lists.add_argument("--batch", type=int, help="items of a list to make at once (default: what fits the memory)")
    lists.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="work through a list on a Ray cluster, or a local one",
    )
    lists.add_argument("--cores", type=int, default=1, help="with --ray on CPUs: cores of each actor")

    draw = commands.add_parser(
        "generate", help="draw pictures from a prompt", parents=[common, lists], formatter_class=Defaults
    )
    draw.add_argument("prompt", nargs="?")
    draw.add_argument("--prompts", type=Path, help="draw a list: one a line in .txt, or `prompt` in .jsonl, .parquet")
    draw.add_argument("--count", type=int, default=1, help="pictures of each prompt")
    own = "(default: the checkpoint's own"
    draw.add_argument("--cfg-weight", type=float, help=f"strength of the prompt; 1 is no guidance {own}, usually 5)")
    draw.add_argument("--temperature", type=float, help=f"0 is greedy {own}, usually 1)")
    draw.add_argument("--top-k", type=int, help=f"keep the k likeliest codes; 0 is off {own}, usually 0)")
    draw.add_argument("--top-p", type=float, default=1.0, help="keep the likeliest codes of this share; 1 is off")
    draw.add_argument(
        "--min-p", type=float, help=f"leave out codes with less than this share of the likeliest's chance {own})"
    )
    draw.add_argument(
        "--sampler", default=SAMPLERS[0], choices=SAMPLERS, help="jacobi: the same pictures, looking ahead"
    )
    draw.add_argument("--think", action="store_true", help="think in words first, and draw from them")
    draw.add_argument("--window", type=int, default=8, help="codes that jacobi looks ahead")
    draw.add_argument("--output", "--out", type=Path, default=Path(), help="folder for the pictures")
    draw.add_argument("--json", action="store_true", help="print token ids, grid and files as JSON")
    draw.set_defaults(run=generate)

    ask = commands.add_parser(
        "describe", help="answer a question about pictures", parents=[common, lists], formatter_class=Defaults
    )
    pictures = "picture files, all about one question; with --out, a folder or a list of them in .txt, .jsonl, .parquet"
    ask.add_argument("pictures", nargs="*", type=Path, help=pictures)
    ask.add_argument("--question", default="Describe the picture.")
    ask.add_argument("--max-new-tokens", type=int, default=512, help="longest answer, in tokens")
    ask.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    ask.add_argument(
        "--output",
        "--out",
        type=Path,
        help="answer for each picture, into a .jsonl or .parquet file or a folder of .txt",
    )
    ask.add_argument("--shard", type=int, help="rows of each file of a table (default: all in one)")
    ask.add_argument("--preset", help="for a list: a question of batch/presets.json in place of --question")
    ask.add_argument("--trigger", default="", help="for a list: the word in the places of [trigger]")
    ask.add_argument("--prefix", default="", help="for a list: text before each answer")
    ask.add_argument("--suffix", default="", help="for a list: text after each answer")
    ask.set_defaults(run=describe)

    pack = commands.add_parser(
        "convert", help="write a checkpoint as a single self-contained file", formatter_class=Defaults
    )
    pack.add_argument("checkpoint", help="folder, weight file or embedded name")
    pack.add_argument("file", type=Path, help="the new .safetensors file")
    pack.add_argument("--dtype", default="bf16", choices=NAMES, help="type of the weights")
    pack.set_defaults(run=convert_command)

    for name, (module, what) in LAZY_COMMANDS.items():
        command = commands.add_parser(
            name, help=what, parents=[common] if name == "eval" else [], formatter_class=Defaults
        )
        if name == chosen:
            import_module(module, __package__).add_arguments(command)
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one sentence on standard error for bad input and too little memory."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser(arguments[0] if arguments else "").parse_args(arguments)
    try:
        args.run(args)
    except (CheckpointError, InputError, MemoryExhaustedError) as error:
        print(f"janus_core: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
