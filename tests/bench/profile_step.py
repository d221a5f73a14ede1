"""Where a decode step's time goes on a CUDA device, from PyTorch's profiler: plainly, and with Triton's kernels.

    python tests/bench/profile_step.py --model Janus-Pro-7B --out FOLDER

Random weights of the model's size, in bf16, two rows. Writes one table for each way, with a launch count, to FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from torch.profiler import ProfilerActivity, profile

from janus_core.bench.engine import SPECIAL
from janus_core.bench.random_weights import random_model
from janus_core.config import JanusConfig
from janus_core.generation.cache import attention_kernels
from janus_core.generation.codes import Drawing
from janus_core.generation.execution import Execution
from janus_core.generation.image import DrawingStep
from janus_core.generation.self_check import triton_kernels

STEPS = 8


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Janus-Pro-1B")
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args()
    device = torch.device("cuda")
    model = random_model(JanusConfig.preset(args.model), device, torch.bfloat16)
    prompt = [SPECIAL["bos"], *range(10, 32), SPECIAL["begin_of_image"]]
    for name, kernels in (("plain", None), ("triton", triton_kernels())):
        with attention_kernels(device):
            drawing = Drawing(prompt=prompt, pad=SPECIAL["pad"], steps=576)
            step = DrawingStep(model, drawing, Execution(device, kernels=kernels))
            for _ in range(2):
                step(step.capacity)  # compiles, and warms up
            torch.cuda.synchronize()
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
                for _ in range(STEPS):
                    step(step.capacity)
                torch.cuda.synchronize()
        events = profiled.key_averages()
        launches = sum(event.count for event in events if "LaunchKernel" in event.key) / STEPS
        table = events.table(sort_by="self_cuda_time_total", row_limit=40)
        file = args.out / f"profile-{args.model}-{name}.txt"
        file.write_text(f"{launches:.0f} launches a step; times of {STEPS} steps\n{table}", "utf-8")
        print(f"{args.model} {name}: {launches:.0f} launches a step: {file}")


if __name__ == "__main__":
    main()
