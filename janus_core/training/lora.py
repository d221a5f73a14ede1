"""`train lora`: teach a frozen checkpoint a look, or a way of answering, in a small file that Janus LoRA loads."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..generation.execution import Execution
from ..model.janus import JanusModel
from ..pictures import to_pil
from ..pipeline import Janus
from ..precision import Precision
from ..processing import Processor
from ..weights.checkpoint import find
from ..weights.loading import load_model
from ..weights.lora import ADAPTER_CONFIG
from . import distributed
from .adapters import TARGETS, adapter_config, add_adapters, recompute_layers, save_adapters
from .memory import lora_bytes
from .samples import Mixture, captions, read_folder
from .stages import KINDS, Stage, with_settings
from .trainer import Trainer, run_stage

FILE = "lora.safetensors"
STAGE = Stage(
    trained=("lora",), learning_rate=2e-4, warm_up=20, steps=1000, batch=8, micro_batch=1, mix=(1, 1, 1), decay=0.5
)
SAMPLES = 4  # captions of the data that are drawn as it goes, without --sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options that only `train lora` has."""
    options = parser.add_argument_group("train lora")
    options.add_argument(
        "--rank", type=int, default=16, help="size of the LoRA: more holds more, and needs more pictures"
    )
    options.add_argument("--targets", default=",".join(TARGETS), help="layers it changes, by the ends of their names")
    options.add_argument(
        "--base", choices=("bf16", "fp16", "fp32", "int8"), default="bf16", help="type of the frozen weights"
    )
    options.add_argument("--sample", action="append", help="prompt to draw as it goes; may be given several times")
    options.add_argument("--sample-every", type=int, default=200, help="steps; 0 = never")


def run(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Train a LoRA of `--checkpoint` on `--data` into the folder `--out`. `settings` are those of the stage.

    Raises InputError for options or data that make no sense, and when the folder has another run's state.
    """
    if not args.checkpoint or not args.data:
        raise InputError("A LoRA is trained on top of a model, with pictures of yours: give --checkpoint and --data.")
    device, source = torch.device(args.device), find(args.checkpoint)
    precision = Precision.of(args.base)
    precision.check(device)
    config = source.config()
    processor = Processor(source, config)
    sources = read_folder(args.data, processor)
    stage = with_settings(STAGE, "lora", settings)
    if "mix" not in settings:
        stage = with_settings(stage, "lora", {"mix": tuple(float(kind in sources) for kind in KINDS)})
    mixture = Mixture(sources, stage.mix, seed=args.seed, pad=processor.pad, condition_drop=stage.condition_drop)
    model = load_model(source, device, precision, config=config)
    model.gen_vision_model.float()  # so that the pictures' codes do not depend on --base
    targets = [target.strip() for target in args.targets.split(",")]
    adapters = add_adapters(model, rank=args.rank, targets=targets, seed=args.seed)
    about = adapter_config(rank=args.rank, targets=targets, checkpoint=str(args.checkpoint))
    if distributed.rank() == 0:
        _check_folder(args.out, about)
    # What the model computes in is what it will draw in: no autocast.
    trainer = Trainer(model, processor, stage=stage, mixture=mixture, device=device, dtype=torch.float32)
    draw = None
    if args.sample_every and "generation" in sources:
        prompts = args.sample or captions(args.data)[:SAMPLES]
        draw = sampler(model, processor, precision, prompts, folder=args.out / "training", every=args.sample_every)
    recompute_layers(model)
    if distributed.rank() == 0:
        need = lora_bytes(config, precision, rank=args.rank, samples=stage.micro_batch) / 1e9
        print(
            f"A step needs about {need:.1f} GB on {args.device}, more for long prompts and for questions.",
            file=sys.stderr,
        )
    run_stage(trainer, "lora", args.out / "training", after_step=draw)
    if distributed.rank() == 0:
        save_adapters(adapters, about, args.out / FILE)
        print(args.out / FILE)


def _check_folder(out: Path, about: dict[str, Any]) -> None:
    """Raise InputError if a folder has the state of a LoRA of another shape; else note this one's there."""
    path = out / "training" / ADAPTER_CONFIG
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != about:
        raise InputError(f"{out} has a LoRA of other --checkpoint, --rank or --targets: use another --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def sampler(
    model: JanusModel, processor: Processor, precision: Precision, prompts: list[str], *, folder: Path, every: int
) -> Callable[[int], None]:
    """Draws the prompts every so many steps, side by side with seed 0, into `folder/lora_<step>.png`."""
    device = next(model.parameters()).device
    # The compiled and rearranged ways to run a layer leave out what is hooked to it.
    execution = Execution(device, graphs=False, kernels=None)
    janus = Janus(model, processor, precision=precision, execution=execution)

    def draw(step: int) -> None:
        if step % every == 0 and distributed.rank() == 0:
            pictures = [janus.decode(janus.generate(prompt))[0] for prompt in prompts]
            to_pil(torch.cat(pictures, dim=1)).save(folder / f"lora_{step:06}.png")

    return draw
