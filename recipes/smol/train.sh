#!/bin/sh
# Train smol's policy: recipes/smol/train.sh RUN "QUESTIONS ..." "ARTICLES ..."; goes on where it was stopped.
set -eu
mkdir -p "$1"
# shellcheck disable=SC2086 # lists of files
[ -f "$1/questions.jsonl" ] || {
    python -m recipes.smol.questions --limit 4000 --questions $2 --texts $3 --out "$1/part.jsonl"
    mv "$1/part.jsonl" "$1/questions.jsonl"
}
refrag train policy --data "$1/questions.jsonl" --start smol --out "$1" --kind learned-query \
    --objective places --steps 1000 --lr 1e-3 --dropout 0.1 --max-passages 16
