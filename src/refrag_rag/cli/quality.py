"""The commands ``refrag eval | policies | coverage``: their parsers, and what they start.

Arguments have the names of the parameters of what is started.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from refrag_rag.errors import RETRIEVAL, need


def add_quality(commands: Any) -> None:
    """Add them to the subparsers of the command line."""
    _add_eval(commands)
    _add_coverage(commands)


def _add_eval(commands: Any) -> None:
    evaluate = commands.add_parser("eval", help="measure a model on your questions")
    evaluate.add_argument("model", help="embedded name, folder or hub id")
    evaluate.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="FILE", dest="files",
        help="JSON lines, plain or xz: question, answers, contexts with text (and title, score)",
    )  # fmt: skip
    evaluate.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", dest="folder",
        help="where to write answers and figures; a run that was stopped goes on from there",
    )  # fmt: skip
    evaluate.add_argument("--limit", type=int, help="questions of each file")
    evaluate.add_argument(
        "-k", type=int, nargs="+", default=[], metavar="K", dest="ks",
        help="chunk sizes (default: the model's usual one)",
    )  # fmt: skip
    _add_shares(evaluate, ["hybrid", "random"], [0.1, 0.2])
    evaluate.add_argument(
        "--positions", type=int, nargs="+", default=[], metavar="N",
        help="budgets of decoder positions, at which passages, chosen text and both are compared",
    )  # fmt: skip
    evaluate.add_argument(
        "--arms", nargs="+", default=[], metavar="ARM", help="only these (default: all)"
    )
    evaluate.add_argument(
        "--ranking", choices=("file", "retriever"), default="file",
        help="which passages are best: the file's first (or highest score), or by similarity",
    )  # fmt: skip
    evaluate.add_argument(
        "--batch", type=int, default=1, metavar="N",
        help="questions answered at once, for a GPU; first tokens are timed without (default: 1)",
    )  # fmt: skip
    evaluate.add_argument("--device", help="cpu, cuda ... (default: cpu)")
    evaluate.add_argument("--dtype", help="float32, bfloat16 ... (default: float32 on CPUs)")
    evaluate.set_defaults(run=_evaluate)


def _add_coverage(commands: Any) -> None:
    covered = commands.add_parser(
        "coverage", help="how often what a policy expands holds the answer, on your questions"
    )
    covered.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="questions as for eval",
    )  # fmt: skip
    _add_target(covered)
    covered.add_argument(
        "--model", default="smol", help="cuts chunks, has policies (default: smol)"
    )
    _add_shares(covered, ["random", "lexical", "hybrid"], [0.05, 0.1, 0.2])
    covered.add_argument(
        "--rankings", choices=("file", "retriever"), nargs="+", default=["file"],
        help="whose scores the passages have: the file's, or a retriever's (default: file)",
    )  # fmt: skip
    covered.add_argument("--limit", type=int, help="questions of each file")
    covered.set_defaults(run=_coverage)


def _add_shares(
    command: argparse.ArgumentParser, policies: Sequence[str], shares: Sequence[float]
) -> None:
    command.add_argument(
        "--policies", nargs="*", default=policies, metavar="POLICY",
        help=f"which chunks stay text (default: {' '.join(policies)})",
    )  # fmt: skip
    command.add_argument(
        "--shares", type=float, nargs="+", default=shares, metavar="P",
        help=f"largest shares of chunks that stay text (default: {' '.join(map(str, shares))})",
    )  # fmt: skip


def _add_target(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--json", type=Path, required=True, metavar="FILE", dest="target",
        help="where to write the figures",
    )  # fmt: skip


def _evaluate(options: argparse.Namespace) -> None:
    if options.ranking == "retriever":
        need("demo", "refrag eval --ranking retriever", RETRIEVAL)
    from refrag_rag.evaluation.run import evaluate

    _print(evaluate, options)


def _coverage(options: argparse.Namespace) -> None:
    if "retriever" in options.rankings:
        need("demo", "refrag coverage --rankings retriever", RETRIEVAL)
    from refrag_rag.evaluation.coverage import measure_coverage

    _print(measure_coverage, options)


def _print(measure: Callable[..., Iterator[str]], options: argparse.Namespace) -> None:
    """Print each table as soon as it is there."""
    arguments = {name: value for name, value in vars(options).items() if name != "run"}
    for lines in measure(**arguments):
        print(lines, flush=True)
