"""``refrag convert``: thin, over `refrag_rag.checkpoints.convert`."""

import argparse
from pathlib import Path
from typing import Any


def add_convert(commands: Any) -> None:
    """Add ``convert`` to the subparsers of the command line."""
    part = commands.add_parser(
        "convert", help="rewrite a PISCO, CLaRa, xRAG or ARC-Encoder checkpoint"
    )
    part.add_argument("folder", type=Path, help="with config.json and the weights")
    part.add_argument("--to", type=Path, required=True, metavar="OUT", help="new folder")
    part.add_argument(
        "--decoder", help="base of PISCO, CLaRa (default: what it names), ARC-Encoder"
    )
    part.add_argument("--encoder", help="xRAG's retriever, or ARC-Encoder's tokenizer")
    part.add_argument("--bridge", type=int, metavar="N", help="of ARC-Encoder for several decoders")
    part.add_argument(
        "--accept-license", action="store_true", help="write it, under the licences shown"
    )
    part.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> None:
    from refrag_rag.checkpoints import convert

    convert(
        options.folder,
        options.to,
        decoder=options.decoder,
        encoder=options.encoder,
        bridge=options.bridge,
        accept_license=options.accept_license,
        say=print,
    )
