"""From a checkpoint to a Janus; which one is embedded."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from .defaults import DrawingDefaults
from .dialects import dialect_of
from .generation.execution import Execution
from .model.quantised import DEFAULT_LAYERS, Layers
from .pipeline import Janus
from .precision import Precision
from .processing import Processor
from .weights.checkpoint import CheckpointFiles, find
from .weights.loading import load_model

DEFAULT_CHECKPOINT = "janus-mini"
DEFAULT_SHA256 = "cc829ca2591a30b5771e1e1c9f8e313ae144a55245362c8a1193c0c31e800b40"  # of its model.safetensors
# Of its codes, int64, of 4 pictures of "a red circle" with seeds 0 to 3, in fp32 on a CPU.
DEFAULT_TOKENS_SHA256 = "7a8fb2b01429f9b552b215eb527891cb053056f92cfb6ec9e89acefac2eda4e1"


def load(
    checkpoint: str | Path = DEFAULT_CHECKPOINT,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    compute: torch.dtype | None = None,
    layers: Layers = DEFAULT_LAYERS,
    execution: Execution | None = None,
    dialect: str | None = None,
) -> Janus:
    """Load a Janus or Janus-Pro checkpoint of either layout (DeepSeek's or transformers').

    `checkpoint` is a folder, a weight file (self-contained, or beside its config.json), or the name of an embedded one.
    Weights are cast to `dtype`, a floating-point type or "bf16", "fp16", "fp32", "fp8_e4m3fn", "int8"; the VQ tokenizer
    stays float32 under float16, where its activations overflow. The 8-bit types hold the transformer's and SigLIP's
    Linear layers; the rest, and the arithmetic, is in `compute`, bfloat16 by default.
    `device` is where the weights are put, and where they are computed with unless `execution` says otherwise. On a CPU they
    may be the file itself, mapped read-only: before you change them in place, call weights.loading.make_writable.
    `layers` are the classes the model is built from. `dialect` is one of dialects.NAMES; None asks the checkpoint's files and
    name.
    Raises CheckpointError if the checkpoint is incomplete, InputError for a dtype or device that cannot be used, or a dialect
    that is unknown.
    """
    precision = Precision.of(dtype, compute)
    precision.check(device)
    source = find(checkpoint)
    config = source.config()
    processor = Processor(
        source, config, dialect_of(source, dialect)
    )  # reports a wrong tokenizer before the weights are read
    defaults = _drawing_defaults(source, processor)
    model = load_model(source, device, precision, layers=layers, config=config)
    return Janus(
        model,
        processor,
        precision=precision,
        execution=execution or Execution(torch.device(device)),
        defaults=defaults,
    )


def in_dialect(janus: Janus, checkpoint: str | Path, dialect: str) -> Janus:
    """A loaded `checkpoint` that is spoken to in another of dialects.NAMES. Both share the weights.

    Raises InputError for an unknown dialect.
    """
    source = find(checkpoint)
    other = copy.copy(janus)
    other.processor = Processor(source, janus.model.config, dialect_of(source, dialect))
    other.defaults = _drawing_defaults(source, other.processor)
    return other


def _drawing_defaults(source: CheckpointFiles, processor: Processor) -> DrawingDefaults:
    name = "generation_config.json"
    return processor.dialect.drawing.updated(source.read_json(name), source=source.describe(name))
