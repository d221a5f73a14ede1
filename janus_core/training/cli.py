"""`python -m janus_core train`: the mini from nothing, or a published checkpoint on a user's own pictures.

The output folder is a Janus folder from the first finished stage on; `training/` in it keeps logs and states, so that
the same command goes on where it was stopped.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from ..config import JanusConfig
from ..errors import InputError
from ..mini.captions import draw_groups
from ..mini.model import new_model, start_from_looks, write_layout
from ..mini.samples import WorldCodes, world_sources
from ..mini.siglip import SigLIPRecipe, train_siglip
from ..mini.world import SIDE, render, sample_crowded_scene, sample_scene
from ..model.janus import JanusModel
from ..processing import Processor
from ..weights.checkpoint import TEXT_FILES, CheckpointFiles, find
from ..weights.convert import save_weights
from ..weights.loading import load_model
from . import distributed as parallel
from .samples import Mixture, centre_crop, read_folder
from .stages import MINI, PAPER, Stage
from .trainer import Trainer, run_stage
from .vq import VQRecipe, to_pixels, train_vq

PHASES = ("vq", "siglip", "stage1", "stage2", "stage3")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_AGREEMENT = 0.99
SIMPLE_SAMPLES = 80_000  # of stage 2 of the mini, after which simple scenes and questions give way to all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the `train` command to argparse."""
    parser.add_argument(
        "phase", choices=(*PHASES, "all"), help="what to train; all = everything still missing, in order"
    )
    parser.add_argument("--out", type=Path, required=True, help="output folder; run again with the same one to go on")
    parser.add_argument("--checkpoint", help="start from this Janus (folder or embedded name) instead of from nothing")
    parser.add_argument("--data", type=Path, help="folder of pictures and .jsonl files instead of the mini's world")
    parser.add_argument("--config", type=Path, help="TOML with a table per phase, e.g. [stage2] steps = 9000")
    parser.add_argument("--recipe", choices=("mini", "paper"), default="mini", help="whose stages to start from")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, help="samples an optimiser step")
    parser.add_argument("--micro-batch", type=int, help="samples at once; the rest is accumulated")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--warm-up", type=int, help="steps")
    parser.add_argument("--decay", type=float, help="share of the steps over which the rate goes down; 0 = constant")
    parser.add_argument("--ema", type=float, help="share of the running mean of the weights kept each step; 0 = none")
    parser.add_argument("--mix", help="understanding:text:generation, e.g. 5:1:4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--processes", type=int, default=1, help="that share each step of a stage: GPUs, or parts of a CPU's threads"
    )
    parser.add_argument(
        "--compile", action="store_true", help="fuse the language model's steps first: a minute, and a C++ compiler"
    )
    parser.add_argument("--autocast", choices=("fp32", "bf16"), default="bf16", help="type the arithmetic runs in")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="type of the finished weights")


def run(args: argparse.Namespace) -> None:
    """Run the phases asked for. Raises InputError for settings or data that make no sense."""
    settings = read_settings(args.config)
    job = Job(args, settings)
    if args.checkpoint and (args.out / "model.safetensors").exists():
        print(f"Going on with the weights in {args.out}; those of --checkpoint were its start.", file=sys.stderr)
    for phase in PHASES if args.phase == "all" else (args.phase,):
        if phase in ("vq", "siglip"):
            if args.phase == "all" and (args.checkpoint or job.finished(phase)):
                continue
            job.train_eye(phase)
        elif args.phase != "all" or not job.finished(phase):
            job.train_stage(phase, last=phase == "stage3" or args.phase != "all")
    print(args.out)


def read_settings(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables of a TOML file by phase. Raises InputError for an unreadable one or a table that is no phase."""
    if path is None:
        return {}
    if sys.version_info < (3, 11):
        raise InputError("Reading TOML needs Python 3.11 or newer: give the settings as flags.")
    import tomllib

    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error}).") from error
    unknown = set(settings) - set(PHASES)
    if unknown:
        raise InputError(f"{path} has a table [{min(unknown)}]: the phases are {', '.join(PHASES)}.")
    return settings


def share_stage(args: argparse.Namespace, settings: dict[str, dict[str, Any]], phase: str) -> None:
    """What every process but the first does of a stage."""
    if args.device == "cuda":
        args.device = f"cuda:{parallel.rank()}"
    Job(args, settings).train_stage(phase, last=False)


class Job:
    """One output folder: what is finished in it, and the next thing to train."""

    def __init__(self, args: argparse.Namespace, settings: dict[str, dict[str, Any]]):
        self.args, self.settings, self.out = args, settings, args.out
        self.states = self.out / "training"
        self.config = self._layout()
        self.processor = Processor(CheckpointFiles(self.out, ()), self.config)

    def _layout(self) -> JanusConfig:
        """The files of the folder beside its weights: the mini's own, or the starting checkpoint's."""
        if (self.out / "config.json").exists():
            return CheckpointFiles(self.out, ()).config()
        if not self.args.checkpoint:
            return write_layout(self.out)
        source = find(self.args.checkpoint)
        if source.is_1_3b != CheckpointFiles(self.out, ()).is_1_3b:
            raise InputError(
                "A Janus-1.3B is known by its folder's name: let the name of --out contain 1.3B where that of --checkpoint "
                "does, and only there."
            )
        self.out.mkdir(parents=True, exist_ok=True)
        for name in TEXT_FILES:
            if (text := source.read(name)) is not None:
                (self.out / name).write_text(text, encoding="utf-8")
        for path in source.folder.glob("LICENSE*") if source.texts is None else ():
            shutil.copy(path, self.out / path.name)
        return source.config()

    def finished(self, phase: str) -> bool:
        return (self.states / f"{phase}.safetensors").exists() or (self.states / f"{phase}.done").exists()

    def _flags(self, phase: str) -> dict[str, Any]:
        names = ("steps", "batch", "micro_batch", "learning_rate", "warm_up", "decay", "ema")
        flags = {name: getattr(self.args, name) for name in names}
        if self.args.mix:
            try:
                parts = tuple(float(part) for part in self.args.mix.split(":"))
            except ValueError:
                parts = ()
            if len(parts) != 3 or min(parts) < 0 or sum(parts) == 0:
                raise InputError(f"--mix is {self.args.mix}: give understanding:text:generation, e.g. 5:1:4.")
            flags["mix"] = parts
        given = self.settings.get(phase, {}) | {name: value for name, value in flags.items() if value is not None}
        for name in ("steps", "batch", "micro_batch"):
            if given.get(name, 1) < 1:
                raise InputError(f"--{name.replace('_', '-')} is {given[name]} for {phase}: give at least 1.")
        return given

    def train_eye(self, phase: str) -> None:
        """Train the VQ tokenizer, or the mini's SigLIP, to `training/<phase>.safetensors`; with --checkpoint its own."""
        if phase == "siglip" and (self.args.data or self.config.vision.image_size != SIDE):
            raise InputError(
                f"siglip learns from the mini's own world, {SIDE} pixels wide: leave --data out, and give no checkpoint of "
                "another picture size. On your pictures an eye learns in stage3."
            )
        flags = self._flags(phase) | {"seed": self.args.seed}
        recipe_type = VQRecipe if phase == "vq" else SigLIPRecipe
        try:
            recipe = recipe_type(**flags)
        except TypeError as error:
            raise InputError(f"A setting given for {phase} is none of its own ({error}).") from error
        dtype = DTYPES[self.args.autocast]
        model = self._start().float() if self.args.checkpoint else None
        if isinstance(recipe, VQRecipe):
            start = model.gen_vision_model if model else None
            train_vq(self.config.vq, recipe, self._pictures(), self.states, self.args.device, dtype, start)
        else:
            start = model.vision_model if model else None
            train_siglip(self.config.vision, recipe, self.states, self.args.device, start)
        if model:
            save_weights(model, self.out, DTYPES[self.args.dtype])

    def _pictures(self) -> Any:
        if self.args.data:
            return folder_pictures(self.args.data, self.config.vision.image_size)
        return world_pictures

    def _start(self) -> JanusModel:
        """The weights the stage starts from: this folder's, the checkpoint's, or new ones with trained eyes."""
        if (self.out / "model.safetensors").exists():
            return load_model(find(self.out))
        if self.args.checkpoint:
            return load_model(find(self.args.checkpoint))
        missing = [phase for phase in ("vq", "siglip") if not self.finished(phase)]
        if missing:
            raise InputError(
                f"{self.out} has no trained {missing[0]} yet: run `train {missing[0]}` or `train all` first."
            )
        model = new_model(self.config, self.args.seed)
        model.gen_vision_model.load_state_dict(load_file(self.states / "vq.safetensors"))
        model.vision_model.load_state_dict(load_file(self.states / "siglip.safetensors"))
        start_from_looks(
            model, torch.load(self.states / "vq_state.pt", weights_only=True, map_location="cpu")["centres"]
        )
        return model

    def train_stage(self, phase: str, last: bool) -> None:
        """Train one of the three stages and write the folder's weights, in the final type after the last one."""
        later = [name for name in PHASES[PHASES.index(phase) + 1 :] if (self.states / f"{name}.pt").exists()]
        if later:
            raise InputError(
                f"{self.out} has gone on to {later[-1]}, which {phase} would undo: to train {phase} from there, give "
                f"--checkpoint {self.out} and another --out."
            )
        model = self._start().float().to(self.args.device)
        stage = self._stage(phase)
        together = self.args.processes
        if not 1 <= together <= stage.batch or (self.args.device == "cuda" and together > torch.cuda.device_count()):
            raise InputError(
                f"--processes is {together}: give 1 or more, each needs a sample of a step's {stage.batch}, and on CUDA "
                "a GPU of its own."
            )
        simple = SIMPLE_SAMPLES if phase == "stage2" else 0
        sources = read_folder(self.args.data, self.processor) if self.args.data else self._world(model, simple)
        seed = self.args.seed + 1000 * PHASES.index(phase)
        mixture = Mixture(sources, stage.mix, seed, self.processor.pad, stage.condition_drop)
        if self.args.compile:
            check_compiler()
            model.language_model.model.compile(dynamic=True)
        trainer = Trainer(model, self.processor, stage, mixture, self.args.device, DTYPES[self.args.autocast])
        with parallel.joined(together, self.args.device, share_stage, self.args, self.settings, phase):
            run_stage(trainer, phase, self.states)
        if parallel.rank() != 0:
            return
        save_weights(model, self.out, DTYPES[self.args.dtype] if last else torch.float32)
        (self.states / f"{phase}.done").touch()

    def _stage(self, phase: str) -> Stage:
        recipe = MINI if self.args.recipe == "mini" else PAPER
        try:
            return recipe[phase].altered(**self._flags(phase))
        except ValueError as error:
            raise InputError(str(error)) from error

    def _world(self, model: JanusModel, simple_samples: int) -> Any:
        vq = model.gen_vision_model

        @torch.no_grad()
        def encode(pictures: np.ndarray) -> torch.Tensor:
            return vq.encode(to_pixels(pictures).to(self.args.device))[1]

        codes = WorldCodes(encode)
        rng = np.random.default_rng(self.args.seed)
        agreement = codes.agreement([sample_scene(rng, draw_groups(rng)) for _ in range(64)])
        if agreement < LEAST_AGREEMENT:
            raise InputError(
                f"The VQ tokenizer gives an object other codes in other pictures (only {agreement:.1%} agree): "
                "it was not trained on the mini's world, or not long enough; train it on, or give --data."
            )
        return world_sources(self.processor, codes, simple_samples)


def check_compiler() -> None:
    """Raises InputError where torch.compile cannot build: no C++ compiler, or a path that breaks its linker command."""
    if not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise InputError("--compile needs a C++ compiler and finds none: install g++, or leave the option out.")
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())
    for path in (str(Path(torch.__file__).parent), cache):
        if " " in path and os.name != "nt":  # torch 2.13 quotes these paths on Windows only
            raise InputError(
                f"--compile cannot work with a space in {path}, since PyTorch's compiler does not quote its paths: move "
                "that folder, or leave the option out."
            )


def world_pictures(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pictures of the mini's world for the VQ tokenizer, uint8 [count, 96, 96, 3]: more than half of them crowded."""
    scenes = [
        sample_crowded_scene(rng) if rng.random() < 0.6 else sample_scene(rng, draw_groups(rng)) for _ in range(count)
    ]
    return np.stack([render(scene) for scene in scenes])


def folder_pictures(folder: Path, size: int) -> Any:
    """Pictures of a folder for the VQ tokenizer, short side resized and centre-cropped. InputError when it has none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    if not paths:
        raise InputError(f"{folder} holds no picture (.png, .jpg, .webp).")

    def pictures(rng: np.random.Generator, count: int) -> np.ndarray:
        chosen = []
        for index in rng.integers(len(paths), size=count):
            with Image.open(paths[index]) as image:
                chosen.append(centre_crop(image.convert("RGB"), size))
        return np.stack(chosen)

    return pictures
