"""The commands below ``refrag train``: the stages in their order, and what serves them."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from refrag_rag.errors import InputError

STAGES = ("reconstruct", "pretrain", "policy", "finetune")


def main(arguments: Sequence[str]) -> None:
    """Run one command with its own options.

    Raises
    ------
    InputError
        If there is no such command.
    """
    name, *rest = arguments or ["?"]
    if name in STAGES:
        _stage(name)(rest)
    elif name in SERVING:
        SERVING[name](rest)
    else:
        raise InputError(
            f"refrag train {name}: no such command; expected one of "
            f"{', '.join((*STAGES, *SERVING))}."
        )


def _stage(name: str) -> Callable[[Sequence[str]], None]:
    from refrag_rag.training import finetune, policy, pretrain, reconstruct

    stages: dict[str, Callable[[Sequence[str]], None]] = {
        "reconstruct": reconstruct.main,
        "pretrain": pretrain.main,
        "policy": policy.main,
        "finetune": finetune.main,
    }
    return stages[name]


def prepare(arguments: Sequence[str]) -> None:
    """Turn text or question records into what the stages read."""
    from refrag_rag.checkpoints import resolve
    from refrag_rag.checkpoints.parts import read_tokenizer
    from refrag_rag.training.data.made_questions import Making
    from refrag_rag.training.data.prepare import prepare as run

    parser = argparse.ArgumentParser(prog="refrag train prepare", description=prepare.__doc__)
    parser.add_argument("sources", nargs="+", help="JSON-lines files or folders, or hf:DATASET")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--kind", choices=("text", "questions"), default="text")
    parser.add_argument("--decoder", help="text: whose tokenizer; folder, GGUF file or hub id")
    parser.add_argument("--skip-bad", action="store_true", help="count bad records, do not stop")
    parser.add_argument("--split", help="of hf: data sets")
    parser.add_argument("--name", help="of hf: data sets: the configuration")
    making = parser.add_argument_group("questions made from text")
    making.add_argument("--questions", action="store_true", help="make them; --kind is not needed")
    making.add_argument(
        "--distractors", type=int, default=7, help="most other passages (default: 7)"
    )
    making.add_argument("--per-passage", type=int, default=2, help="most questions (default: 2)")
    making.add_argument("--limit", type=int, help="most questions in all")
    making.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse_args(arguments)
    made = {
        name: getattr(options, name) for name in ("distractors", "per_passage", "limit", "seed")
    }
    if options.questions:
        options.kind = "questions"
    elif any(value != parser.get_default(name) for name, value in made.items()):
        raise InputError(f"{made} were given; expected them only with --questions.")
    if options.kind == "text" and not options.decoder:
        raise InputError("Text is prepared for one tokenizer; expected --decoder NAME.")
    tokenizer = read_tokenizer(resolve(options.decoder)) if options.decoder else None
    found = run(
        options.sources,
        tokenizer,
        options.out,
        options.kind,
        split=options.split,
        name=options.name,
        skip_bad=options.skip_bad,
        making=Making(**made) if options.questions else None,
    )
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    print(f"{options.out}: {counts}; left out: {dict(found.skipped) or 'nothing'}")


def answers(arguments: Sequence[str]) -> None:
    """Let a model answer questions from full text: data for sequence-level distillation."""
    from refrag_rag.engine import Refrag
    from refrag_rag.training.teacher import write_answers

    parser = argparse.ArgumentParser(prog="refrag train answers", description=answers.__doc__)
    parser.add_argument(
        "source", help="question records: JSON lines, a prepared folder, hf:DATASET"
    )
    parser.add_argument("--model", required=True, help="the teacher: name, folder or hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder for finetune")
    parser.add_argument("--max-passages", type=int, default=10, help="of a prompt (default: 10)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="of an answer (default: 64)")
    options = parser.parse_args(arguments)
    found = write_answers(
        options.source,
        options.out,
        Refrag.load(options.model),
        max_passages=options.max_passages,
        max_new_tokens=options.max_new_tokens,
    )
    print(f"{options.out}: {found.counts}; left out: {dict(found.skipped) or 'nothing'}")


def delta(arguments: Sequence[str]) -> None:
    """Save a trained model as a delta checkpoint: LoRA, encoder and projector, without the base."""
    from refrag_rag.model import RefragModel

    parser = argparse.ArgumentParser(prog="refrag train delta", description=delta.__doc__)
    parser.add_argument("model", help="a trained model, with or without --lora: folder or hub id")
    parser.add_argument("--base", required=True, help="its decoder's: GGUF file, folder or hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    model = RefragModel.from_pretrained(options.model, dtype="auto")
    model.save_pretrained(options.out, base=options.base)
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB, to be put together with {options.base}")


def curriculum(arguments: Sequence[str]) -> None:
    """Show the length curriculum."""
    from refrag_rag.training.lengths import stage_counts

    parser = argparse.ArgumentParser(prog="refrag train curriculum", description=curriculum.__doc__)
    parser.add_argument("--chunks", type=int, default=256, help="longest context (default: 256)")
    parser.add_argument("--k", type=int, default=8, help="tokens of a chunk (default: 8)")
    options = parser.parse_args(arguments)
    for length, counts in stage_counts(options.chunks).items():
        print(f"{length:>4} x {options.k}: {' '.join(f'{count:>5}' for count in counts)}")


SERVING: dict[str, Callable[[Sequence[str]], None]] = {
    "prepare": prepare,
    "answers": answers,
    "curriculum": curriculum,
    "delta": delta,
}
