"""`python -m janus_core train`: a new model in the world it is made for, or a published checkpoint on a user's pictures.

From the first finished stage on, the output folder is a Janus folder. Its `training/` holds logs and states, from which
the same command resumes.
"""

import argparse
import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..config import JanusConfig
from ..dialects import DIALECTS, dialect_by_name
from ..errors import InputError
from ..model.janus import JanusModel
from ..model.vq import VQModel
from ..precision import FLOATS
from ..processing import Processor
from ..weights.checkpoint import TEXT_FILES, CheckpointFiles, find
from ..weights.loading import load_model
from ..weights.saving import save_weights
from . import distributed, lora
from .samples import Mixture, folder_pictures, read_folder
from .stages import PAPER, Stage, with_settings
from .trainer import Trainer, run_stage
from .vq import VQRecipe, train_vq
from .world import World

ENCODERS = ("vq", "siglip")
PHASES = (*ENCODERS, "stage1", "stage2", "stage3")


def add_arguments(parser: argparse.ArgumentParser, world: World) -> None:
    """Describe the `train` command to argparse. New models are made for `world` and trained in it."""
    parser.add_argument(
        "phase",
        choices=(*PHASES, "all", "lora"),
        help="what to train; all = everything still missing, in order; lora = a small file for a --checkpoint",
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder; give the same one again to resume")
    parser.add_argument("--checkpoint", help="start from this Janus (folder or embedded name) instead of from nothing")
    parser.add_argument("--data", type=Path, help="folder of pictures and .jsonl files instead of the generated ones")
    parser.add_argument("--config", type=Path, help="TOML with a table per phase, e.g. [stage2] steps = 9000")
    parser.add_argument(
        "--recipe", choices=(world.recipe, "paper"), default=world.recipe, help="whose stages to start from"
    )
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, help="samples an optimiser step")
    parser.add_argument("--micro-batch", type=int, help="samples at once; the rest is accumulated")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--warm-up", type=int, help="steps")
    parser.add_argument("--decay", type=float, help="share of the steps over which the rate goes down; 0 = constant")
    parser.add_argument("--ema", type=float, help="decay of the exponential moving average of the weights; 0 = off")
    parser.add_argument("--mix", help="understanding:text:generation, e.g. 5:1:4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile", action="store_true", help="fuse the language model's steps first: a minute, and a C++ compiler"
    )
    parser.add_argument("--autocast", choices=("fp32", "bf16"), default="bf16", help="type the arithmetic runs in")
    parser.add_argument("--dtype", choices=FLOATS, default="bf16", help="type of the finished weights")
    lora.add_arguments(parser)
    parser.set_defaults(run=partial(run, world=world))


def run(args: argparse.Namespace, world: World) -> None:
    """Run the phases asked for, in each process that torchrun has started. Raises InputError for settings or data that
    make no sense.
    """
    with distributed.process_group(args.device) as args.device:
        if args.phase == "lora":
            lora.run(args, stage_settings(args, read_settings(args.config), "lora"))
        else:
            _run_phases(args, world)


def _run_phases(args: argparse.Namespace, world: World) -> None:
    first = distributed.rank() == 0
    if not first:
        distributed.wait_for_all()  # until process 0 has written the folder's files
    job = Job(args, world)
    if args.phase == "all":
        # A checkpoint has trained encoders.
        phases = [p for p in PHASES if not job.finished(p) and not (args.checkpoint and p in ENCODERS)]
    else:
        phases = [args.phase]
    if first:
        if args.checkpoint and (args.out / "model.safetensors").exists():
            print(f"Going on with the weights in {args.out}: --checkpoint was only used at the start.", file=sys.stderr)
        distributed.wait_for_all()
    distributed.wait_for_all()
    for phase in phases:
        if phase not in ENCODERS:
            job.train_stage(phase, last=phase in ("stage3", args.phase))
        elif first:
            job.train_encoder(phase)
        distributed.wait_for_all()
    if first:
        print(args.out)


def read_settings(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables of a TOML file by phase. Raises InputError for an unreadable file or an unknown phase."""
    if path is None:
        return {}
    if sys.version_info < (3, 11):
        raise InputError("Reading TOML needs Python 3.11 or newer: give the settings as flags.")
    import tomllib

    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error}).") from error
    unknown = set(settings) - {*PHASES, "lora"}
    if unknown:
        raise InputError(f"{path} has a table [{min(unknown)}]: the phases are {', '.join(PHASES)} and lora.")
    return settings


def stage_settings(args: argparse.Namespace, tables: dict[str, dict[str, Any]], phase: str) -> dict[str, Any]:
    """The phase's settings from --config's `tables`, and those given as flags, which win. Raises InputError."""
    names = ("steps", "batch", "micro_batch", "learning_rate", "warm_up", "decay", "ema")
    flags: dict[str, Any] = {name: getattr(args, name) for name in names} | {"mix": _mix(args.mix)}
    settings = tables.get(phase, {}) | {name: value for name, value in flags.items() if value is not None}
    for name in ("steps", "batch", "micro_batch"):
        if settings.get(name, 1) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {settings[name]} for {phase}: give at least 1.")
    return settings


def _mix(text: str | None) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        mix = tuple(float(part) for part in text.split(":"))
    except ValueError:
        mix = ()
    if len(mix) != 3 or min(mix) < 0 or sum(mix) == 0:
        raise InputError(f"--mix is {text}: give understanding:text:generation, e.g. 5:1:4.")
    return mix


class Job:
    """One output folder: what is finished in it, and the training of each phase."""

    def __init__(self, args: argparse.Namespace, world: World):
        self.args, self.world, self.out = args, world, args.out
        self.settings = read_settings(args.config)
        self.states = self.out / "training"
        self.config = self._layout()
        self.processor = Processor(CheckpointFiles(self.out, ()), self.config)

    def _layout(self) -> JanusConfig:
        """Make sure that the folder has every file but the weights, new or from --checkpoint; return its config."""
        if (self.out / "config.json").exists():
            return CheckpointFiles(self.out, ()).config()
        if not self.args.checkpoint:
            return self.world.write_layout(self.out)
        source = find(self.args.checkpoint)
        told, kept = dialect_by_name(source.names), dialect_by_name([self.out.absolute().name])
        if told is not kept:
            marks = ", ".join(dialect.mark for dialect in DIALECTS if dialect.mark).replace("1.3b", "1.3B")
            raise InputError(
                f"{source.folder} speaks as {told.name} and {self.out} would as {kept.name}, since a folder's name tells: the "
                f"name of --out must contain 1.3B or another of the marks {marks} if that of --checkpoint does, and only then."
            )
        self.out.mkdir(parents=True, exist_ok=True)
        for name in TEXT_FILES:
            if (text := source.read(name)) is not None:
                (self.out / name).write_text(text, encoding="utf-8")
        for path in source.folder.glob("LICENSE*") if source.texts is None else ():
            shutil.copy(path, self.out / path.name)
        return source.config()

    def finished(self, phase: str) -> bool:
        """Whether the phase has been trained to its end."""
        return (self.states / f"{phase}.safetensors").exists() or (self.states / f"{phase}.done").exists()

    def train_encoder(self, phase: str) -> None:
        """Train the VQ tokenizer or SigLIP to `training/<phase>.safetensors`; with --checkpoint, the checkpoint's own."""
        size = self.world.picture_size
        if phase == "siglip" and (self.args.data or self.config.vision.image_size != size):
            raise InputError(
                f"siglip is trained on generated pictures of {size} pixels: leave --data out, and give no checkpoint of "
                "another picture size, or train SigLIP on your own pictures in stage3."
            )
        settings = stage_settings(self.args, self.settings, phase) | {"seed": self.args.seed}
        model = self._start().float() if self.args.checkpoint else None
        if phase == "vq":
            data, side = self.args.data, self.config.vision.image_size
            train_vq(
                self.config.vq,
                with_settings(VQRecipe(), phase, settings),
                pictures=folder_pictures(data, side) if data else self.world.pictures,
                folder=self.states,
                device=self.args.device,
                dtype=FLOATS[self.args.autocast],
                start=model.gen_vision_model if model else None,
            )
        else:
            self.world.train_siglip(
                self.config.vision,
                settings,
                folder=self.states,
                device=self.args.device,
                start=model.vision_model if model else None,
            )
        if model:
            save_weights(model, self.out, FLOATS[self.args.dtype])

    def _start(self) -> JanusModel:
        """The weights to start from: this folder's, the checkpoint's, or a new model with trained encoders."""
        if (self.out / "model.safetensors").exists():
            return load_model(find(self.out))
        if self.args.checkpoint:
            return load_model(find(self.args.checkpoint))
        missing = [phase for phase in ENCODERS if not self.finished(phase)]
        if missing:
            raise InputError(
                f"{self.out} has no trained {missing[0]} yet: run `train {missing[0]}` or `train all` first."
            )
        return self.world.new_model(self.config, self.states, seed=self.args.seed)

    def train_stage(self, phase: str, *, last: bool) -> None:
        """Train a stage and write the folder's weights: float32, or in the type of --dtype if it is the `last` one."""
        later = [name for name in PHASES[PHASES.index(phase) + 1 :] if (self.states / f"{name}.pt").exists()]
        if later:
            raise InputError(
                f"{self.out} has gone on to {later[-1]}, and {phase} would overwrite it: to train {phase} from there, give "
                f"--checkpoint {self.out} and another --out."
            )
        model = self._start().float()
        stage = with_settings(
            (PAPER if self.args.recipe == "paper" else self.world.stages)[phase],
            phase,
            stage_settings(self.args, self.settings, phase),
        )
        trainer = Trainer(
            model,
            self.processor,
            stage=stage,
            mixture=self._mixture(phase, stage, model.gen_vision_model),
            device=self.args.device,
            dtype=FLOATS[self.args.autocast],
        )
        if self.args.compile:
            check_compiler()
            model.language_model.model.compile(dynamic=True)
        run_stage(trainer, phase, self.states)
        if distributed.rank() != 0:
            return
        save_weights(model, self.out, FLOATS[self.args.dtype] if last else torch.float32)
        (self.states / f"{phase}.done").touch()

    def _mixture(self, phase: str, stage: Stage, vq: VQModel) -> Mixture:
        if self.args.data:
            sources = read_folder(self.args.data, self.processor)
        else:
            sources = self.world.sources(self.processor, vq, phase=phase, seed=self.args.seed)
        return Mixture(
            sources,
            stage.mix,
            seed=self.args.seed + 1000 * PHASES.index(phase),
            pad=self.processor.pad,
            condition_drop=stage.condition_drop,
        )


def check_compiler() -> None:
    """Raise InputError where torch.compile cannot build: no C++ compiler, or a path that breaks its linker command."""
    if not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise InputError("--compile needs a C++ compiler and finds none: install g++, or leave the option out.")
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())
    for path in (str(Path(torch.__file__).parent), cache):
        if " " in path and os.name != "nt":  # torch 2.13 quotes these paths on Windows only
            raise InputError(
                f"--compile cannot work with a space in {path}, since PyTorch's compiler does not quote its paths: move "
                "that folder, or leave the option out."
            )
