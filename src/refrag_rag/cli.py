"""The command ``refrag``: thin, every command a few lines over the library."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refrag_rag import __version__
from refrag_rag.errors import InputError, RefragError
from refrag_rag.evaluation.latency_commands import add_commands as add_bench
from refrag_rag.evaluation.quality_commands import add_quality
from refrag_rag.extras import need
from refrag_rag.store.commands import add_commands as add_store

if TYPE_CHECKING:
    from refrag_rag.demo.ask import Reading

HOME = Path(".refrag")
PAGE = Path("refrag.html")


def build_parser() -> argparse.ArgumentParser:
    """The parser; `docs/cli.md` is made from it."""
    parser = argparse.ArgumentParser(prog="refrag", description="REFRAG for existing RAG chains.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="answer questions over the documents of the package")
    demo.add_argument("--ask", metavar="QUESTION", help="ask this instead of the demo's questions")
    demo.set_defaults(run=_demo)

    index = commands.add_parser("index", help="index a folder and precompute chunk embeddings")
    index.add_argument("folder", type=Path)
    index.add_argument("--workers", type=int, default=1, help="processes that encode (default: 1)")
    index.add_argument("--ray", action="store_true", help="the workers are those of a Ray cluster")
    index.add_argument(
        "--shards", type=Path, metavar="FOLDER",
        help="with --ray: where workers write; all machines of the cluster share it",
    )  # fmt: skip
    index.set_defaults(run=_index)

    ask = commands.add_parser("ask", help="ask the folder that was indexed")
    ask.add_argument("--show", action="store_true", help="print the counts of the answer")
    ask.set_defaults(run=_ask)

    inspect = commands.add_parser("inspect", help="ask, and write what the decoder read as HTML")
    inspect.add_argument(
        "--out", type=Path, default=PAGE, metavar="FILE.html",
        help=f"where to write the page (default: {PAGE})",
    )  # fmt: skip
    inspect.set_defaults(run=_inspect)
    for command in (ask, inspect):
        _question_arguments(command)
    for command in (index, ask, inspect):
        command.add_argument("--model", default="tiny", help="embedded name, folder or hub id")
        command.add_argument(
            "--home", type=Path, default=HOME, help="where index and embeddings are kept"
        )

    train = commands.add_parser(
        "train", help="train a model: base, reconstruct, pretrain, policy, finetune, prepare ..."
    )
    train.add_argument("stage", help="see docs/training.md; each has its own --help")
    train.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the stage")
    train.set_defaults(run=_train)

    doctor = commands.add_parser("doctor", help="what this machine can run, what a model needs")
    doctor.add_argument("model", nargs="?", help="embedded name, folder or hub id")
    doctor.set_defaults(run=_doctor)

    add_quality(commands)
    add_store(commands, _read_index)
    add_bench(commands)
    return parser


def _question_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("question")
    command.add_argument("--top-k", type=int, default=8, help="passages to retrieve (default: 8)")
    reading = command.add_mutually_exclusive_group()
    reading.add_argument("--full-text", action="store_true", help="read the passages as plain text")
    reading.add_argument(
        "--policy", help="which chunks stay text: exact, exact+lexical ... (default: lexical)"
    )
    command.add_argument(
        "-p", "--budget", type=float, help="largest fraction of chunks that stay text"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors of our own end with a message and status 1."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except RefragError as error:
        print(f"refrag: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(options: argparse.Namespace) -> None:
    need("demo", "refrag demo")
    from refrag_rag.demo.run import run_demo

    for line in run_demo(options.ask):
        print(line, flush=True)


def _index(options: argparse.Namespace) -> None:
    need("demo", "refrag index")
    from refrag_rag.demo.library import CHUNKS, build_index, save_index
    from refrag_rag.engine import Refrag

    if options.shards and not options.ray:
        raise InputError(f"--shards {options.shards} without --ray; expected it only with it.")
    engine = Refrag.load(options.model, store=options.home / CHUNKS)

    def precompute(texts: Sequence[str]) -> None:
        if options.ray:
            from refrag_rag.ray_job import precompute_on_ray as on_ray

            name, workers, folder = options.model, options.workers, options.shards
            on_ray(engine, texts, model=name, workers=workers, folder=folder)
        else:
            engine.precompute(texts, workers=options.workers, progress=True)

    index = build_index(options.folder, engine, precompute=precompute)
    save_index(index, options.home)
    print(f"{len(index.docstore.docs)} passages of {options.folder} in {options.home}")


def _ask(options: argparse.Namespace) -> None:
    need("demo", "refrag ask")
    reading = _read(options)
    print(reading.text)
    if options.show:
        print("\n".join(f"{name}: {value}" for name, value in reading.counts.items()))


def _inspect(options: argparse.Namespace) -> None:
    need("demo", "refrag inspect")
    from refrag_rag.inspection import render

    if not options.out.parent.is_dir():
        raise InputError(f"{options.out} lies in no folder; expected one that exists.")
    reading = _read(options)
    options.out.write_text(render(reading.answer, title=options.question), encoding="utf-8")
    print(f"{reading.text}\n{options.out}")


def _read(options: argparse.Namespace) -> "Reading":
    from refrag_rag.demo.ask import Asker
    from refrag_rag.demo.library import CHUNKS, open_index
    from refrag_rag.engine import Refrag

    index = open_index(options.home)
    engine = Refrag.load(options.model, store=options.home / CHUNKS)
    policy = "all" if options.full_text else options.policy
    asker = Asker(index, engine, top_k=options.top_k, policy=policy, p=options.budget)
    return asker.ask(options.question)


def _train(options: argparse.Namespace) -> None:
    need("train", "refrag train")
    from refrag_rag.training.commands import main as train

    train([options.stage, *options.rest])


def _doctor(options: argparse.Namespace) -> None:
    from refrag_rag.doctor import report

    for line in report(options.model):
        print(line)


def _read_index(path: Path, metadata: str) -> Iterable[str]:
    try:
        from refrag_rag.llama_index.persisted import persisted_texts
    except ImportError as error:
        raise InputError(
            f"{path} was given as LlamaIndex storage, but {error.name} is not installed; "
            "pip install 'refrag-rag[llama-index]', or give a JSON-lines file."
        ) from error
    return persisted_texts(path, metadata)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
