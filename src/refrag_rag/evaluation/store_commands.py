"""The command ``refrag bench store``: its parser, and what it starts."""

import argparse
from pathlib import Path
from typing import Any


def add_store(kinds: Any) -> None:
    """Add ``store`` to the subparsers of ``refrag bench``."""
    store = kinds.add_parser(
        "store", help="formats of chunk embeddings, and the store on disk as it grows"
    )
    store.add_argument("--model", default="smol", help="embedded name, folder or hub id")
    store.add_argument(
        "--questions", type=int, default=2000, help="held-out, for the formats (default: 2000)"
    )
    store.add_argument(
        "--passages", type=int, default=0, metavar="N",
        help="also grow a store to N passages of 256 tokens, k = 16, 768 wide (26 KB each in fp16)",
    )  # fmt: skip
    store.add_argument(
        "--folder", type=Path, help="where the store grows (default: a temporary folder)"
    )
    store.add_argument("--json", type=Path, required=True, help="where to write the figures")
    store.set_defaults(run=_store)


def _store(options: argparse.Namespace) -> None:
    from refrag_rag.evaluation.store_report import measure_store

    for line in measure_store(
        options.model,
        options.json,
        questions=options.questions,
        passages=options.passages,
        folder=options.folder,
    ):
        print(line, flush=True)
