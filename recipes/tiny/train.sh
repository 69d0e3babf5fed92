#!/usr/bin/env bash
# Trains a model like `tiny`, the small one of the project's tests, from scratch on two CPU cores: two hours, and an
# hour for both policies. It is not the default model, and knows nothing but an invented world.
# From vectors alone it ends below `tiny`, which was trained longer (docs/training.md has the figures).
# Needs a C++ compiler and Python's headers; without, set `compile: false` in a copy of the configuration.
# Stop it whenever you like: run again, it goes on.
# Usage: examples/train_tiny.sh RUN [FACTBOOK.jsonl.xz]
set -euo pipefail
run=$1
book=${2:+--factbook $2}
# glibc gives large tensors back to the system after every step unless told otherwise.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

for stage in base reconstruct pretrain finetune; do
  [ -d "$run/$stage/model" ] || refrag train $stage --config tiny --out "$run" $book
done
for kind in learned learned-query; do
  [ -f "$run/places/policy/$kind/expansion.json" ] || refrag train policy --config tiny --out "$run/places" \
    --start "$run/finetune/model" --kind $kind --objective places --minutes 15 --lr 0.001 \
    --batch-size 32 --questions 8 --seed 5 $book
  [ -f "$run/policy/$kind/expansion.json" ] || refrag train policy --config tiny --out "$run" \
    --start "$run/places/policy/model" --kind $kind $book
done
echo "Measure it: refrag eval $run/finetune/model --json $run/quality.json"
