#!/bin/sh
# From a base to a checkpoint: recipes/smol/train.sh RUN BASE "QUESTIONS ..." "ARTICLES ..." [OPTIONS]
# OPTIONS go to every stage that trains the model. The same command goes on where it was stopped.
set -eu
run=$1 base=$2 questions=$3 articles=$4 options=${5-}
here=$(dirname "$0")
mkdir -p "$run"
# shellcheck disable=SC2086 # lists of files, of options
{
    [ -d "$run/text" ] || refrag train prepare $articles --decoder "$base" --out "$run/text"
    [ -d "$run/cloze" ] || refrag train prepare $articles --questions --distractors 3 --limit 20000 --out "$run/cloze"
    [ -f "$run/questions.jsonl" ] || {
        python -m recipes.smol.questions --questions $questions --texts $articles --out "$run/part.jsonl"
        mv "$run/part.jsonl" "$run/questions.jsonl"
    }
    refrag train reconstruct --config "$here/reading.yaml" --out "$run/reading" --decoder "$base" \
        --data "$run/text" $options
    refrag train finetune --config "$here/reading.yaml" --out "$run/reading" --start reconstruct \
        --data "$run/cloze" "$run/questions.jsonl" --text "$run/text" $options
    refrag train finetune --config "$here/asking.yaml" --out "$run/asking" \
        --start "$run/reading/finetune/model" --data "$run/cloze" "$run/questions.jsonl" \
        --text "$run/text" $options
}
refrag train delta "$run/asking/finetune/model" --base "$base" --out "$run/model"
