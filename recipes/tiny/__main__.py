"""The recipe's commands: ``python -m recipes.tiny STAGE --out RUN``, and what measures the model.

Stages, in their order: base, reconstruct, pretrain, finetune, policy. ``train.sh`` runs them all.
Beside them: ``ablate curriculum``, ``ablate reconstruction`` and ``policies MODEL --json FILE``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from recipes.tiny import ablations, base, finetune, policy, pretrain, reconstruct
from recipes.tiny.evaluation.policies import measure_on
from recipes.tiny.questions import held_out_questions
from recipes.tiny.settings import COMMAND, read_settings
from refrag_rag.errors import InputError, RefragError
from refrag_rag.model import RefragModel

STAGES: dict[str, tuple[ModuleType, type[Any]]] = {
    "base": (base, base.BaseSettings),
    "reconstruct": (reconstruct, reconstruct.ReconstructSettings),
    "pretrain": (pretrain, pretrain.PretrainSettings),
    "finetune": (finetune, finetune.FinetuneSettings),
    "policy": (policy, policy.PolicySettings),
}


def policies(arguments: Sequence[str]) -> None:
    """Measure a model's policies on held-out questions of the world."""
    parser = argparse.ArgumentParser(prog=f"{COMMAND} policies", description=policies.__doc__)
    parser.add_argument("model", help="folder")
    parser.add_argument("--json", type=Path, required=True, help="where to write the figures")
    parser.add_argument("--questions", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.43], metavar="P")
    parser.add_argument("--policies", nargs="+", default=[], metavar="POLICY")
    parser.add_argument("--answers", type=float, nargs="+", default=[], metavar="P")
    options = parser.parse_args(arguments)
    model = RefragModel.from_pretrained(options.model)
    for text in measure_on(
        model,
        held_out_questions(model.tokenizer, count=options.questions),
        options.json,
        shares=options.shares,
        policies=options.policies,
        answers=options.answers,
    ):
        print(text)


OTHERS: dict[str, Callable[[Sequence[str]], None]] = {
    "ablate": ablations.main,
    "policies": policies,
}


def run(arguments: Sequence[str]) -> None:
    """Run one command with its own options.

    Raises
    ------
    InputError
        If there is no such command.
    """
    name, *rest = arguments or ["?"]
    if name in STAGES:
        stage, kind = STAGES[name]
        stage.run(read_settings(kind, name, stage.__doc__, rest))
    elif name in OTHERS:
        OTHERS[name](rest)
    else:
        known = ", ".join((*STAGES, *OTHERS))
        raise InputError(f"{COMMAND} {name}: no such command; expected one of {known}.")


def main(arguments: Sequence[str]) -> int:
    """Run one command; errors of the project's own end with a message and status 1."""
    try:
        run(arguments)
    except RefragError as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
