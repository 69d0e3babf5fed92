#!/usr/bin/env bash
# Trains a model like `tiny`, the small one of the project's tests, from scratch on two CPU cores: two hours, and an
# hour for both policies. It knows nothing but an invented world.
# From vectors alone it ends below `tiny`, which was trained longer (README.md has the figures).
# Needs a C++ compiler and Python's headers; without, add --no-compile to `stage` below.
# Stop it whenever you like: run again, it goes on.
# Usage: recipes/tiny/train.sh RUN [FACTBOOK.jsonl.xz]
set -euo pipefail
run=$(realpath -m "$1")
book=()
[ $# -lt 2 ] || book=(--factbook "$(realpath "$2")")
cd "$(dirname "$0")/../.."
# glibc gives large tensors back to the system after every step unless told otherwise.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

stage() { "${PYTHON:-python}" -m recipes.tiny "$@" "${book[@]}"; }

for name in base reconstruct pretrain finetune; do
  [ -d "$run/$name/model" ] || stage $name --out "$run"
done
for kind in learned learned-query; do
  for part in places rewards; do
    done="$run/$kind.$part"
    [ -f "$done" ] && continue
    if [ $part = places ]; then
      stage policy --out "$run/places" --start "$run/finetune/model" --kind $kind \
        --objective places --minutes 15 --lr 0.001 --batch-size 32 --questions 8 --seed 5
    else
      stage policy --out "$run" --start "$run/places/policy/model" --kind $kind
    fi
    touch "$done"
  done
done
echo "Measure it: python -m recipes.tiny policies $run/policy/model --json $run/policies.json"
