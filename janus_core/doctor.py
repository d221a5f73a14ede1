"""`python -m janus_core doctor`: is this machine well?

Each check returns figures and problems, and one that raises stops no other. Nothing is written or fetched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from logging import getLogger
from logging.handlers import BufferingHandler
from typing import Any

import torch

from . import checkpoints, machine, memory
from .bench.dtypes import forced_codes
from .bench.engine import Ours
from .bench.measure import bandwidth, decode_step, seconds
from .checkpoints import DEFAULT_CHECKPOINT, load
from .errors import CheckpointError, InputError
from .generation import self_check
from .generation.execution import Execution
from .model import cpu_ops
from .pipeline import Janus
from .precision import EIGHT_BIT, NAMES, Precision
from .tokens import ImageTokens
from .weights import checkpoint as files

PROMPT = "a red circle"
SETTINGS: dict[str, Any] = {"cfg_weight": 1.75, "min_p": 0.0}  # under which a small error already draws other codes
KNOWN = 4  # pictures of the embedded model whose codes are known
CODES = 1152  # to compare, or two pictures of Janus-Pro
LEAST_SAME = 0.99  # share of codes, in fp32 and of the embedded model
LEAST_SAME_ROUNDED = 0.9  # of other models: how many codes rounding changes there was not measured
LEAST_KEPT = 0.9  # of a picture's codes, by decoding and encoding in the embedded model
WORKSPACES = 2**27  # bytes that CUDA's libraries may take beside our tensors
REPORT = "please report it with this output"

Figures = dict[str, Any]
Found = tuple[Figures, list[str]]


@dataclass
class Patient:
    """What is examined, and what was drawn with it."""

    checkpoint: str
    device: torch.device
    dtype: str
    tokens: ImageTokens | None = None
    picture: torch.Tensor | None = None  # [1, H, W, 3], the first of `tokens`
    decided: Execution | None = None  # by the self-check

    @cached_property
    def auto(self) -> Precision:
        source, compute = files.find(self.checkpoint), machine.fastest_dtype(self.device)
        return memory.fitting_precision(
            source.config(), compute=compute, stored_dtype=source.dtype, memory=machine.free_memory(self.device)
        )

    @cached_property
    def precision(self) -> Precision:
        compute = machine.fastest_dtype(self.device) if self.dtype in EIGHT_BIT else None
        return self.auto if self.dtype == "auto" else Precision.of(self.dtype, compute)

    @cached_property
    def janus(self) -> Janus:
        compute, eight_bit = self.precision.compute, self.precision.eight_bit
        return load(self.checkpoint, self.device, eight_bit or compute, compute=compute)

    @cached_property
    def reference(self) -> Janus:
        """The model in fp32 on the CPU."""
        itself = self.device.type == "cpu" and self.precision == Precision(torch.float32)
        return self.janus if itself else load(self.checkpoint)

    @property
    def embedded(self) -> bool:
        return files.find(self.checkpoint).folder == files.ASSETS / DEFAULT_CHECKPOINT


def versions(_: Patient) -> Found:
    return machine.versions(), []


def devices(patient: Patient) -> Found:
    return {"examined": str(patient.device)} | machine.devices(), []


def cpu_kernels(_: Patient) -> Found:
    cpu_ops.is_usable.cache_clear()  # a failed trial is logged, and what is logged is a problem
    return {name: "used" if cpu_ops.is_usable(name) else "not used" for name in cpu_ops.PROBES}, []


def dtype(patient: Patient) -> Found:
    source, exact = files.find(patient.checkpoint), Precision(machine.fastest_dtype(patient.device))
    need = max(size(source.config(), exact, 1) for size in (memory.total_drawing_bytes, memory.total_answering_bytes))
    sizes = f"where a picture takes {need / 1e9:.2f} GB and {machine.free_memory(patient.device) / 1e9:.2f} GB are free"
    why = "the file is in it" if source.dtype in EIGHT_BIT else f"{exact.name} is fastest on {patient.device}, {sizes}"
    return {"examined": patient.precision.name, "auto means": patient.auto.name, "because": why}, []


def loading(patient: Patient) -> Found:
    return {"seconds": seconds(lambda: patient.janus, patient.device)}, []


def drawing(patient: Patient) -> Found:
    h, w = patient.janus.model.config.grid
    count = max(1, CODES // (h * w))

    def draw() -> None:
        patient.tokens = patient.janus.generate(PROMPT, count, **SETTINGS)

    took = seconds(draw, patient.device)
    return {"pictures": count, "seconds": took, "codes a second": count * h * w / took}, []


def known_codes(patient: Patient) -> Found:
    if not patient.embedded:
        return {"skipped": "only those of the embedded model are known"}, []
    weights = (files.ASSETS / DEFAULT_CHECKPOINT / "model.safetensors").read_bytes()
    codes = patient.reference.generate(PROMPT, KNOWN).ids
    whole = hashlib.sha256(weights).hexdigest() == checkpoints.DEFAULT_SHA256
    equal = hashlib.sha256(codes.numpy().tobytes()).hexdigest() == checkpoints.DEFAULT_TOKENS_SHA256
    cause, cure = (
        ("PyTorch computes wrongly", "try another") if whole else ("its file is damaged", "install this pack again")
    )
    problem = f"The embedded model does not draw as it should in fp32 on the CPU, as {cause}: {cure}, or {REPORT}."
    return {"file as published": whole, "codes as known": equal}, [] if whole and equal else [problem]


def agreement(patient: Patient) -> Found:
    """The codes that were drawn step by step, beside what the reference draws after the same codes, without steps."""
    if patient.tokens is None:
        return {"skipped": "nothing was drawn"}, []
    size = memory.weight_bytes(patient.janus.model.config, "fp32")
    if "reference" not in vars(patient) and machine.free_memory(torch.device("cpu")) < 1.5 * size:
        return {"skipped": f"in fp32 the model takes {size / 1e9:.1f} GB of RAM"}, []
    ids, precision = patient.tokens.ids.cpu(), patient.precision
    same = float((forced_codes(patient.reference, PROMPT, ids, **SETTINGS) == ids).double().mean())
    least = LEAST_SAME if patient.embedded or precision.name == "fp32" else LEAST_SAME_ROUNDED
    wrong = f"only {same:.1%} of its codes are those of fp32 on the CPU"
    problem = f"{precision.name} on {patient.device} is computed wrongly, as {wrong}: choose fp32, and {REPORT}."
    return {"codes as in fp32 on the CPU": same}, [] if same >= least else [problem]


def pictures(patient: Patient) -> Found:
    if patient.tokens is None:
        return {"skipped": "nothing was drawn"}, []
    patient.picture = patient.janus.decode(tokens := replace(patient.tokens, ids=patient.tokens.ids[:1]))
    kept = float((patient.janus.encode(patient.picture).ids == tokens.ids).double().mean())
    problem = f"Decoding and encoding a picture keeps only {kept:.0%} of its codes: choose fp32, and {REPORT}."
    return {"codes kept by decoding and encoding": kept}, [problem] if patient.embedded and kept < LEAST_KEPT else []


def answer(patient: Patient) -> Found:
    if patient.picture is None:
        return {"skipped": "there is no picture"}, []
    words = patient.janus.answer("Describe the picture.", patient.picture, max_new_tokens=48)
    wrong = not words.strip() or (patient.embedded and PROMPT not in words)
    problem = f"A picture of {PROMPT} is described as {words!a}: choose fp32, and {REPORT}."
    return {"of the picture": ascii(words)}, [problem] if wrong else []


def device_kernels(patient: Patient) -> Found:
    if patient.device.type != "cuda":
        return {"skipped": f"CUDA graphs and Triton are not for {patient.device}"}, []
    llama = patient.janus.model.language_model.model
    prompt = torch.tensor([patient.janus.processor.drawing_prompt(PROMPT)] * 2, device=patient.device)
    plain, kernels = replace(patient.janus.execution, kernels=None), self_check.triton_kernels()
    report = self_check.examine(plain, llama, patient.janus.model.embed_text(prompt), kernels)
    figures = {f"a step by {way}, ms": 1000 * seconds for way, seconds in report.seconds.items()}
    patient.decided = report.execution
    return (
        {"Triton": "installed" if kernels else "not installed", **figures, "found": str(report)},
        [f"{way} is off, as {why}: pictures are right without it, but {REPORT}." for way, why in report.faults.items()],
    )


def peak_memory(patient: Patient) -> Found:
    estimate, device = patient.janus.drawing_need(PROMPT).bytes, patient.device
    figures = {"estimate for a drawing, GB": estimate / 1e9}
    if device.type != "cuda":
        return figures | {"measured": f"not on {device.type}"}, []
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    patient.janus.generate(PROMPT)
    peak = torch.cuda.max_memory_allocated(device) - before
    problem = f"Drawing took {peak / 1e9:.2f} GB beside the weights, {estimate / 1e9:.2f} were estimated: {REPORT}."
    return figures | {"measured, GB": peak / 1e9}, [] if peak <= estimate + WORKSPACES else [problem]


def speed(patient: Patient) -> Found:
    janus, device = patient.janus, patient.device
    kernels = patient.decided.triton if patient.decided else None
    engine, steps = Ours(janus.model, device, kernels=kernels), 16 if device.type == "cpu" else 256
    row = decode_step([engine], janus.model, count=1, context=24, steps=steps, rounds=3)
    return {"decode step, ms": row.values["ours"], "floor, ms": row.floor, "GB a second": bandwidth(device) / 1e9}, []


NEEDED = dtype, loading  # without them there is no model
DRAWN = drawing, known_codes, agreement, pictures, answer
CHECKS = versions, devices, cpu_kernels, *NEEDED, *DRAWN, device_kernels, peak_memory, speed


def attempt(check: Callable[[Patient], Found], patient: Patient) -> Found:
    """A check's figures and problems, with what it raised, and what the core logged because it costs speed."""
    logger, log = getLogger(__package__), BufferingHandler(1000)
    logger.addHandler(log)
    try:
        figures, problems = check(patient)
    except Exception as error:  # noqa: BLE001 (whatever it is, the other checks still run)
        says_all, text = isinstance(error, (CheckpointError, InputError)), " ".join(str(error).split())
        figures, problems = {}, [text if says_all else f"{type(error).__name__} ({text}): {REPORT}."]
    finally:
        logger.removeHandler(log)
    for record in log.buffer:
        cause = f" ({record.exc_info[1]})" if record.exc_info else ""
        problems.append(f"{record.getMessage().rstrip('.')}{cause}: update PyTorch, or {REPORT}.")
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figures.items()}
    return rounded, problems


def examine(patient: Patient) -> Iterator[tuple[str, Figures, list[str]]]:
    """Each check's title, figures and problems."""
    for check in CHECKS:
        title, (figures, problems) = check.__name__.replace("_", " "), attempt(check, patient)
        yield title, figures, [f"{title}: {problem}" for problem in problems]
        if check in NEEDED and not figures:
            return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="folder, weight file or embedded name")
    parser.add_argument("--device", default=None, help="cpu, cuda, mps; the best there is by default")
    parser.add_argument("--dtype", default="auto", choices=("auto", *NAMES), help="type of the weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Examine, and print. Exits with 1 where there is a problem; raises InputError for a device that cannot be used."""
    device = args.device or machine.best_device()
    Precision(torch.float32).check(device)
    report, problems = Figures(), list[str]()
    say = (lambda *_: None) if args.json else lambda *lines: print(*lines, sep="\n", flush=True)
    for title, figures, found in examine(Patient(args.checkpoint, torch.device(device), args.dtype)):
        report[title] = figures
        problems += found
        say(title, *(f"  {name}: {'none' if value is None else value}" for name, value in figures.items()))
    say("", *([f"{i}. {problem}" for i, problem in enumerate(problems, 1)] or ["All well."]))
    if args.json:
        print(json.dumps(report | {"problems": problems}, indent=1))
    if problems:
        raise SystemExit(1)
