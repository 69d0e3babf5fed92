#!/usr/bin/env bash
# Trains the embedded model from scratch on two CPU cores, in about three hours. Stop it whenever you
# like: run again, it goes on. Usage: examples/train_tiny.sh RUN_FOLDER [FACTBOOK.jsonl.xz]
set -euo pipefail
run=$1
book=${2:+--factbook $2}
# glibc gives large tensors back to the system after every step unless told otherwise.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592

stage() { [ -e "$run/$1.done" ] || { python -m "refrag_rag.training.$1" --out "$run" "${@:2}"; touch "$run/$1.done"; }; }
stage base --minutes 75 $book
stage reconstruct --minutes 4
stage pretrain --minutes 40 $book
stage finetune --minutes 72 $book
echo "Measure it: refrag eval $run/finetune/model --json $run/quality.json"
