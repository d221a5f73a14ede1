"""Benchmark: ours beside the original's loop and transformers' own Janus, on the same random weights.

    python tests/bench/beside.py --model Janus-Pro-1B --quick --whole --int8 --pictures 1 4

The flags are those of `python -m janus_core bench`, and so is the table, with a column for each engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from engines import Original, Transformers, open_transformers, transformers_twin

from janus_core import CheckpointError, InputError
from janus_core.bench import command
from janus_core.bench.jacobi import jacobi
from janus_core.bench.loading import loading
from janus_core.bench.random_weights import random_model
from janus_core.precision import FLOATS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_arguments(parser)
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    model = command.model_of(args)
    twin = transformers_twin(model)
    # transformers can only open a file whose picture head is as wide as the model.
    plain = replace(model.config, gen_head_width=model.config.llama.hidden_size)
    opened = twin if plain == model.config else transformers_twin(random_model(plain, device, FLOATS[args.dtype]))
    engines = [Original(model, twin, device), Transformers(twin, device), *command.our_engines(args, model)]
    others = {"transformers": open_transformers}
    command.report(
        args,
        [
            *command.speed(args, model, engines=engines, decoders={"transformers": twin.decode_image_tokens}),
            lambda: loading(opened.save_pretrained, args.dtype, others, rounds=1 if args.quick else 3),
            lambda: jacobi(device),
        ],
    )


if __name__ == "__main__":
    try:
        main()
    except (CheckpointError, InputError) as error:
        sys.exit(f"beside: {error}")
