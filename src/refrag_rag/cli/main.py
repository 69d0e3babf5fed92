"""The command ``refrag``: thin, every command a few lines over the library."""

import argparse
import sys
from collections.abc import Sequence

from refrag_rag import __version__
from refrag_rag.cli.ask import add_asking
from refrag_rag.cli.compress import add_compress
from refrag_rag.cli.convert import add_convert
from refrag_rag.cli.quality import add_quality
from refrag_rag.cli.store import add_store
from refrag_rag.errors import RefragError, need


def build_parser() -> argparse.ArgumentParser:
    """The parser; `docs/cli.md` is made from it."""
    parser = argparse.ArgumentParser(prog="refrag", description="REFRAG for existing RAG chains.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_asking(commands)
    train = commands.add_parser(
        "train", help="train a model: reconstruct, pretrain, policy, finetune, prepare ..."
    )
    train.add_argument("stage", help="see docs/training.md; each has its own --help")
    train.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the stage")
    train.set_defaults(run=_train)

    doctor = commands.add_parser("doctor", help="what this machine can run, what a model needs")
    doctor.add_argument("model", nargs="?", help="embedded name, folder or hub id")
    doctor.set_defaults(run=_doctor)

    path = commands.add_parser("path", help="print the folder of a model's decoder, to serve it")
    path.add_argument("model", help="embedded name, folder or hub id")
    path.set_defaults(run=_path)

    add_quality(commands)
    add_store(commands)
    add_convert(commands)
    add_compress(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors of our own end with a message and status 1, Ctrl-C with 130."""
    try:
        options = build_parser().parse_args(arguments)
        options.run(options)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except RefragError as error:
        print(f"refrag: {error}", file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    need("train", "refrag train")
    from refrag_rag.cli.train import main as train

    train([options.stage, *options.rest])


def _doctor(options: argparse.Namespace) -> None:
    from refrag_rag.cli.doctor import report

    for line in report(options.model):
        print(line)


def _path(options: argparse.Namespace) -> None:
    from refrag_rag.checkpoints import decoder_folder

    print(decoder_folder(options.model))


if __name__ == "__main__":
    sys.exit(main())
