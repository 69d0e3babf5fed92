"""``refrag convert``: thin, over `refrag_rag.checkpoints.convert`."""

import argparse
from pathlib import Path
from typing import Any


def add_convert(commands: Any) -> None:
    """Add ``convert`` to the subparsers of the command line."""
    part = commands.add_parser("convert", help="rewrite a checkpoint of PISCO or CLaRa as our own")
    part.add_argument("folder", type=Path, help="with config.json, adapters.pth and ..._layers.pth")
    part.add_argument("--to", type=Path, required=True, metavar="OUT", help="new folder")
    part.add_argument("--decoder", help="folder or hub id of its base (default: what it names)")
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
        accept_license=options.accept_license,
        say=print,
    )
