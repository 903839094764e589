#!/usr/bin/env bash
# Everything that is to be known about the engine on a GPU, in one command and under nine minutes: does it load, is it
# right, how fast is it. For a host with an NVIDIA GPU, Python 3.12, torch for its CUDA, transformers, nvcc and ninja;
# it needs no network. What it needs besides is carried in two folders that git ignores:
#
#   benchmarks/gpu.sh --download        build/wheels/: where there is a network, any machine
#   python benchmarks/build_kernels.py  build/kernels/: where there is nvcc, any machine; else they are built at first use
#
#   benchmarks/gpu.sh [FOLDER] [--only STAGE ...] [--budget SECONDS]
#
# writes gpu.json and gpu.md to FOLDER (build/gpu). A stage that fails or runs out of time is noted, and the next begins.
set -euo pipefail
cd "$(dirname "$0")/.."

# flashinfer-python is the version that the `gpu` extra of pyproject.toml pins. The others are what the worker imports and
# a host for machine learning may lack.
WHEELS=(flashinfer-python==0.6.18.post1 apache-tvm-ffi==0.1.15.post2 msgspec structlog nats-py pytest-asyncio)

if [ "${1:-}" = --download ]; then
    rm -f build/wheels/*.whl # two versions of one package cannot both be installed
    platforms=()
    for version in 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${version}_x86_64"); done
    exec python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
        "${platforms[@]}" --platform manylinux2014_x86_64 --dest build/wheels "${WHEELS[@]}"
fi

folder=build/gpu
if [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; then folder=$1 && shift; fi
mkdir -p "$folder"

# Beside the host's own packages, not among them.
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" build/wheels/*.whl
export PYTHONPATH="$site:$PWD/build/kernels:$PWD/workers:$PWD${PYTHONPATH:+:$PYTHONPATH}"

if [ -z "${CUDA_HOME:-}" ]; then
    for toolkit in /usr/local/cuda /usr/local/cuda-*; do
        if [ -x "$toolkit/bin/nvcc" ]; then export CUDA_HOME=$toolkit && break; fi
    done
fi
if [ ! -d build/kernels/flashinfer_jit_cache ] && [[ " $* " != *" --rehearse "* ]]; then
    timeout 150 python3 benchmarks/build_kernels.py --only cascade bf16-128 bf16-64
fi
export FLASHINFER_DISABLE_JIT=1 # what is missing is to fail at once, not to wait for a compiler
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
exec python3 -m benchmarks.gpu --folder "$folder" "$@"
