#!/usr/bin/env bash
# Everything that needs a CUDA device: the tests marked gpu, with both of PyTorch's allocators, then the table of all
# engines at 1B and 7B size (random weights).
#   tests/bench/gpu.sh [folder for the figures as JSON] [more flags of beside.py, such as --quick]
set -uo pipefail
out=$(realpath -m "${1:-.}")
shift || true
mkdir -p "$out"
cd "$(dirname "$0")/../.."
failed=0
for allocator in native cudaMallocAsync; do  # ComfyUI's is the second
    PYTORCH_CUDA_ALLOC_CONF=backend:$allocator python -m pytest -q -m gpu tests/unit || failed=1
done
for model in Janus-Pro-1B Janus-Pro-7B; do
    python tests/bench/beside.py --model "$model" --device cuda --pictures 1 16 --whole --triton \
        --json "$out/$model.json" "$@" || failed=1
done
exit $failed
