"""``refrag compress``: its parser, and what it starts."""

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  refrag compress smol --data questions.jsonl --method int8 wanda svd
  refrag compress smol --data questions.jsonl --method svd --rate 0.1 --out small
  refrag compress smol --data questions.jsonl --method svd --out small --heal train.jsonl
  refrag compress smol --data questions.jsonl --memory 300 --latency 900 --out small
"""


def add_compress(commands: Any) -> None:
    """Add ``compress`` to the subparsers of the command line."""
    part = commands.add_parser(
        "compress",
        help="prune, factorise or quantise a model's decoder",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    part.add_argument("model", help="embedded name, folder or hub id")
    part.add_argument("--data", type=Path, required=True, metavar="FILE", help="as for eval")
    part.add_argument("--questions", type=int, default=50, help="of the file (default: 50)")
    part.add_argument(
        "--method", nargs="+", default=[], metavar="METHOD", dest="methods",
        help="int8, wanda, wanda-2:4 or svd; or targets instead",
    )  # fmt: skip
    part.add_argument("--rate", type=float, help="share of the weights (wanda: 0.5, svd: 0.1)")
    part.add_argument("--latency", type=float, metavar="MS", help="most to the first token, here")
    part.add_argument(
        "--memory", type=float, metavar="MB", help="most that the decoder's weights may take"
    )
    part.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the checkpoint")
    part.add_argument("--heal", type=Path, metavar="FILE", help="questions to learn old answers on")
    part.add_argument("--heal-steps", type=int, default=200, help="of that (default: 200)")
    part.add_argument("--heal-minutes", type=float, metavar="MINUTES", help="stop it after so many")
    part.add_argument("--device", help="cpu, cuda ... (default: cpu)")
    part.add_argument("--dtype", help="float32, bfloat16 ... (default: float32 on CPUs)")
    part.add_argument("--report", type=Path, metavar="FILE", help="figures as JSON")
    part.set_defaults(run=_compress)


def _compress(options: argparse.Namespace) -> None:
    from refrag_rag.evaluation.smaller import make_smaller

    for line in make_smaller(**{n: v for n, v in vars(options).items() if n != "run"}):
        print(line, flush=True)
