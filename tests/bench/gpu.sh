#!/usr/bin/env bash
# All that wants a CUDA device: the tests marked gpu, then the speed table at 1B and 7B size (random weights).
#   tests/bench/gpu.sh [folder for the figures as JSON]
set -euo pipefail
out=$(realpath -m "${1:-.}")
mkdir -p "$out"
cd "$(dirname "$0")/../.."
python -m pytest -q -m gpu tests/unit
for model in Janus-Pro-1B Janus-Pro-7B; do
    python -m janus_core bench --model "$model" --device cuda --pictures 1 16 --whole --triton --json "$out/$model.json"
done
