#!/bin/sh
# The tables of docs/speed.md that need a GPU, from a checkout: benchmarks/gpu.sh OUT [MODEL [DEVICE]]
# Every cell is written when it is measured, the most wanted first. `benchmarks/gpu.sh out test cpu` rehearses it.
set -eu
cd "$(dirname "$0")/.."
out=$1 model=${2-llama-7b} device=${3-cuda}
export PYTHONPATH="$PWD/src:$PWD" HF_HUB_OFFLINE=1
if [ "$model" = test ]; then short="128 256" long="512" many="256"; else
    short="512 1024 2048 4096 8192" long="16384 32768 65536" many="4096"; fi
bench() { name=$1 module=$2; shift 2; ${PYTHON-python3} -m "benchmarks.$module" --model "$model" --device "$device" \
    --json "$out/$name.json" "$@" >"$out/$name.md" || echo "$name failed" >&2; }
mkdir -p "$out"
# shellcheck disable=SC2086 # lists of contexts
{
    bench paper latency --contexts ${long%% *} $short --k 8 16 32 --rounds 3
    bench graphs latency --contexts ${long%% *} $short --k 8 16 32 --rounds 3 --graphs
    bench throughput latency --contexts $many --k 16 --batches 1 8 32 --tokens 33 --rounds 2
    bench long latency --contexts ${long#* } --k 8 16 32 --rounds 2 --tokens 2
    bench precompute precompute --passages 512 --rounds 2
}
