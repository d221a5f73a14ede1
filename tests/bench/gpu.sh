#!/usr/bin/env bash
# Everything that needs a CUDA device, in under fifteen minutes: the tests marked gpu with both of PyTorch's allocators,
# the doctor, the tables of all engines at 1B and 7B size (random weights, made on the device), and a profile of a step.
#   tests/bench/gpu.sh [folder for the figures, as JSON and text] [more flags of beside.py]
# Each part has a time limit, and the tables are written row by row, so a slow machine loses the last rows only.
set -uo pipefail
out=$(realpath -m "${1:-.}")
shift || true
mkdir -p "$out"
cd "$(dirname "$0")/../.."
failed=0
for allocator in native cudaMallocAsync; do  # ComfyUI's is the second
    PYTORCH_CUDA_ALLOC_CONF=backend:$allocator timeout 90 python -m pytest -q -m gpu tests/unit \
        2>&1 | tee "$out/tests-$allocator.txt" || failed=1
done
timeout 90 python -m janus_core doctor --json >"$out/doctor.json" || failed=1
for model in Janus-Pro-1B Janus-Pro-7B; do
    limit=$([ "$model" = Janus-Pro-1B ] && echo 150 || echo 270)
    timeout "$limit" python tests/bench/beside.py --model "$model" --device cuda --dtype bf16 --pictures 1 16 --quick --whole \
        --int8 --triton --json "$out/$model.json" "$@" 2>&1 | tee "$out/$model.txt" || failed=1
    timeout 60 python tests/bench/profile_step.py --model "$model" --out "$out" || failed=1
done
exit $failed
