#!/bin/sh
# Train a model's policy: recipes/smol/policy.sh RUN MODEL; goes on where it was stopped.
# RUN has questions.jsonl, as train.sh makes it.
set -eu
refrag train policy --data "$1/questions.jsonl" --start "$2" --out "$1" --kind learned-query \
    --objective places --steps 1000 --lr 1e-3 --dropout 0.1 --max-passages 16
