"""The estimate of a LoRA's memory against what really lives: never below, and at most 15 % above."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from live_bytes import LiveBytes

from janus_core.bench.random_weights import in_8_bits, random_model
from janus_core.model.janus import JanusModel
from janus_core.processing import Processor
from janus_core.training.adapters import add_adapters, recompute_layers
from janus_core.training.lora import STAGE
from janus_core.training.memory import lora_bytes
from janus_core.training.samples import Mixture, Sample
from janus_core.training.stages import with_settings
from janus_core.training.trainer import Trainer

PROMPT, RANK, SAMPLES = 40, 8, 4


@pytest.mark.parametrize(
    ("dtype", "hidden", "inner", "layers", "codes"),
    [
        ("fp32", 512, 1408, 4, 1024),
        ("bf16", 512, 1408, 4, 1024),
        ("int8", 512, 1408, 4, 1024),
        ("bf16", 256, 512, 2, 16384),  # here the loss is the largest
    ],
)
def test_a_step_of_a_lora(
    model: JanusModel, processor: Processor, dtype: str, hidden: int, inner: int, layers: int, codes: int
) -> None:
    small = model.config
    llama = replace(
        small.llama, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=8
    )
    config = replace(small, llama=llama, gen_head_width=hidden, vq=replace(small.vq, codebook_size=codes))
    compute = torch.float32 if dtype == "fp32" else torch.bfloat16
    frozen = random_model(config, torch.device("cpu"), compute)
    frozen = in_8_bits(frozen) if dtype == "int8" else frozen
    frozen.gen_vision_model.float()
    drawn = np.zeros(config.grid[0] * config.grid[1], np.int64)
    mixture = Mixture(
        {"generation": lambda rng, index: Sample("generation", [1] * PROMPT, codes=drawn)},
        (0, 0, 1), seed=0, pad=0, condition_drop=0.0,
    )  # fmt: skip
    add_adapters(frozen, rank=RANK)
    stage = with_settings(STAGE, "lora", {"batch": SAMPLES, "micro_batch": SAMPLES, "mix": (0, 0, 1)})
    trainer = Trainer(frozen, processor, stage=stage, mixture=mixture, dtype=torch.float32)
    recompute_layers(frozen)
    trainer.step()
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    kept = [*frozen.parameters(), *moments]
    with LiveBytes(kept) as live:
        trainer.step()
    measured = live.peak + sum(tensor.nbytes for tensor in kept)
    assert measured <= lora_bytes(config, dtype, rank=RANK, samples=SAMPLES, prompt=PROMPT) <= 1.15 * measured
