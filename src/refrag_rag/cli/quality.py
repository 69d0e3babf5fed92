"""The commands ``refrag eval | policies | coverage``: their parsers, and what they start."""

import argparse
from pathlib import Path
from typing import Any

from refrag_rag.errors import RETRIEVAL, need


def add_quality(commands: Any) -> None:
    """Add them to the subparsers of the command line."""
    evaluate = commands.add_parser("eval", help="measure a model on your questions")
    evaluate.add_argument("model", help="embedded name, folder or hub id")
    evaluate.add_argument(
        "--data", type=Path, nargs="+", required=True, metavar="FILE",
        help="JSON lines, plain or xz: question, answers, contexts with text (and title, score)",
    )  # fmt: skip
    evaluate.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER",
        help="where to write answers and figures; a run that was stopped goes on from there",
    )  # fmt: skip
    evaluate.add_argument("--limit", type=int, help="questions of each file")
    evaluate.add_argument(
        "-k", type=int, nargs="+", default=[], help="chunk sizes (default: the model's usual one)"
    )
    evaluate.add_argument(
        "--policies", nargs="*", default=["lexical", "random"], metavar="POLICY",
        help="which chunks stay text (default: lexical random)",
    )  # fmt: skip
    evaluate.add_argument(
        "--shares", type=float, nargs="+", default=[0.1, 0.2], metavar="P",
        help="largest shares of chunks that stay text (default: 0.1 0.2)",
    )  # fmt: skip
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
    evaluate.add_argument("--device", help="cpu, cuda ... (default: cpu)")
    evaluate.add_argument("--dtype", help="float32, bfloat16 ... (default: float32 on CPUs)")
    evaluate.set_defaults(run=_evaluate)

    policies = commands.add_parser(
        "policies", help="measure policies by the log-perplexity of answers"
    )
    policies.add_argument("model", help="embedded name, folder or hub id")
    policies.add_argument("--json", type=Path, required=True, help="where to write the figures")
    policies.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="questions as for eval"
    )
    policies.add_argument("--questions", type=int, default=2000, help="how many (default: 2000)")
    policies.add_argument(
        "--shares", type=float, nargs="+", default=[0.05, 0.1, 0.43], metavar="P",
        help="budgets (default: 0.05 0.1 0.43, at k = 8 the rates 5.9, 4.7 and 2.0)",
    )  # fmt: skip
    policies.add_argument(
        "--policies", nargs="+", default=[], metavar="POLICY",
        help="only these, beside none and all (default: every one that the model has)",
    )  # fmt: skip
    policies.add_argument(
        "--answers", type=float, nargs="+", default=[], metavar="P",
        help="budgets at which answers are written too, which takes longer (default: all)",
    )  # fmt: skip
    policies.set_defaults(run=_policies)

    covered = commands.add_parser(
        "coverage", help="how often what a policy expands holds the answer, on your questions"
    )
    covered.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="xz-compressed JSON lines: question, answers, contexts with title and text",
    )  # fmt: skip
    covered.add_argument("--json", type=Path, required=True, help="where to write the figures")
    covered.add_argument("--model", default="smol", help="cuts the chunks (default: smol)")
    covered.add_argument(
        "--policies", nargs="+", default=["random", "exact", "lexical"], metavar="POLICY",
        help="such as need only texts (default: random exact lexical)",
    )  # fmt: skip
    covered.add_argument(
        "--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2], metavar="P",
        help="budgets (default: 0.05 0.1 0.2)",
    )  # fmt: skip
    covered.add_argument("--limit", type=int, help="questions of each file")
    covered.set_defaults(run=_coverage)


def _evaluate(options: argparse.Namespace) -> None:
    if options.ranking == "retriever":
        need("demo", "refrag eval --ranking retriever", RETRIEVAL)
    from refrag_rag.evaluation.run import evaluate

    for line in evaluate(
        options.model,
        options.data,
        options.out,
        ks=options.k,
        policies=options.policies,
        shares=options.shares,
        positions=options.positions,
        arms=options.arms,
        limit=options.limit,
        ranking=options.ranking,
        device=options.device,
        dtype=options.dtype,
    ):
        print(line, flush=True)


def _policies(options: argparse.Namespace) -> None:
    need("train", "refrag policies")
    from refrag_rag.evaluation.policies import measure_policies

    for line in measure_policies(
        options.model,
        options.json,
        data=options.data,
        count=options.questions,
        shares=options.shares,
        policies=options.policies,
        answers=options.answers,
    ):
        print(line, flush=True)


def _coverage(options: argparse.Namespace) -> None:
    from refrag_rag.evaluation.coverage import measure_coverage

    for line in measure_coverage(
        options.model,
        options.files,
        options.json,
        policies=options.policies,
        shares=options.shares,
        limit=options.limit,
    ):
        print(line, flush=True)
