"""The commands ``refrag demo | index | ask | inspect``: documents and questions."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refrag_rag.errors import InputError, RefragError, need

if TYPE_CHECKING:
    from refrag_rag.demo.ask import Asker, Reading
    from refrag_rag.demo.home import Record
    from refrag_rag.engine import Refrag

MODEL = "smol"
HOME = Path(".refrag")
PAGE = Path("refrag.html")
ANSWER_TOKENS = 64
SHOWN = 8  # names of files in one line


def add_asking(commands: Any) -> None:
    """Add them to the subparsers of the command line."""
    demo = commands.add_parser("demo", help="answer questions over the documents of the package")
    demo.add_argument("--ask", metavar="QUESTION", help="ask this instead of the demo's questions")
    demo.add_argument("--full", action="store_true", help="print everything, nothing cut short")
    demo.add_argument(
        "--only", choices=("facts", "addresses"),
        help="one collection: 14 short documents, or seven State of the Union addresses",
    )  # fmt: skip
    demo.set_defaults(run=_demo)

    index = commands.add_parser("index", help="index a folder and precompute chunk embeddings")
    index.add_argument(
        "folder", type=Path,
        help="any files of text, HTML; PDF, Word, PowerPoint, EPUB with llama-index-readers-file",
    )  # fmt: skip
    index.add_argument(
        "--ray", type=int, metavar="WORKERS", help="encode with workers of a Ray cluster"
    )
    index.add_argument(
        "--shared", type=Path, metavar="FOLDER",
        help="with --ray: where workers write; all machines of the cluster share it",
    )  # fmt: skip
    index.set_defaults(run=_index)

    ask = commands.add_parser("ask", help="ask the folder that was indexed")
    ask.add_argument("question", nargs="?", help="default: a prompt that answers line by line")
    ask.add_argument("--show", action="store_true", help="print the counts of the answer")
    ask.set_defaults(run=_ask)

    inspect = commands.add_parser("inspect", help="ask, and write what the decoder read as HTML")
    inspect.add_argument("question")
    inspect.add_argument(
        "--out", type=Path, default=PAGE, metavar="FILE.html",
        help=f"where to write the page (default: {PAGE})",
    )  # fmt: skip
    inspect.set_defaults(run=_inspect)
    for command in (ask, inspect):
        _question_arguments(command)
    for command in (index, ask, inspect):
        _model_arguments(command)


def _model_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        help=f"name, folder or hub id (default: the one that indexed this home, or {MODEL})",
    )
    command.add_argument(
        "--base", type=Path, metavar="FILE_OR_FOLDER",
        help="what a delta checkpoint is put together with, if it is not installed",
    )  # fmt: skip
    command.add_argument(
        "-k", type=int, metavar="TOKENS", help="chunk size, of those that the model was trained on"
    )
    command.add_argument(
        "--home", type=Path, default=HOME,
        help=f"where index and embeddings are kept (default: {HOME})",
    )  # fmt: skip


def _question_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--top-k", type=int, default=8, help="passages to retrieve (default: 8)")
    command.add_argument("--full-text", action="store_true", help="read the passages as plain text")
    command.add_argument(
        "--policy", help="which chunks stay text: exact, exact+lexical ... (default: the model's)"
    )
    command.add_argument("-p", type=float, help="largest fraction of chunks that stay text")
    command.add_argument(
        "--backend", nargs="+", metavar="URL", help="vLLM servers that decode; see docs/serving.md"
    )


def _demo(options: argparse.Namespace) -> None:
    need("demo", "refrag demo")
    from refrag_rag.demo.questions import COLLECTIONS
    from refrag_rag.demo.run import run_demo

    collections = [options.only] if options.only else list(COLLECTIONS)
    for line in run_demo(options.ask, collections=collections, full=options.full):
        print(line, flush=True)


def _index(options: argparse.Namespace) -> None:
    need("demo", "refrag index")
    from refrag_rag.demo.home import Home
    from refrag_rag.demo.library import update_index

    if options.shared and options.ray is None:
        raise InputError(f"--shared {options.shared} without --ray; expected it only with it.")
    home = Home(options.home)
    record = home.settle(options.folder, options.model, options.k)

    def precompute(engine: "Refrag", texts: Sequence[str]) -> None:
        from refrag_rag.engine.ray_job import precompute_on_ray

        precompute_on_ray(
            engine, texts, model=record.model, workers=options.ray, folder=options.shared,
            options={"k": record.k, "base": options.base},
        )  # fmt: skip

    changes = update_index(
        options.folder,
        home,
        lambda: _load(options, record),
        record=record,
        precompute=None if options.ray is None else precompute,
    )
    if changes.skipped:
        print(f"refrag: {_skipped(changes.skipped)}", file=sys.stderr)
    print(
        f"{changes.new + changes.kept} passages of {options.folder} in {options.home}: "
        f"{changes.new} new, {changes.kept} kept, {changes.removed} removed"
    )


def _skipped(files: Sequence[str]) -> str:
    kind = "file" if len(files) == 1 else "files"
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return f"skipped {len(files)} {kind} without readable text: {', '.join(files[:SHOWN])}{more}"


def _ask(options: argparse.Namespace) -> None:
    need("demo", "refrag ask")
    asker = _asker(options)
    if options.question is not None:
        _print(asker.ask(options.question), options.show)
        return
    for question in _lines():
        try:
            _print(asker.ask(question), options.show)
        except RefragError as error:  # the next question may be a better one
            print(f"refrag: {error}", file=sys.stderr)


def _print(reading: "Reading", show: bool) -> None:
    print(reading.text, end="\n\n")
    for source in reading.sources:
        print(f"  {source}")
    if show:
        print()
        for name, value in reading.answer.metadata().items():
            print(f"{name}: {value}")
    print(flush=True)


def _lines() -> Iterator[str]:
    """Lines that are typed at a prompt, or piped, up to an empty one or the end."""
    typed = sys.stdin.isatty()
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() arrow keys and a history
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        if not typed:  # nobody has seen the question yet
            print(line)
        if not line.strip():
            return
        yield line


def _inspect(options: argparse.Namespace) -> None:
    need("demo", "refrag inspect")
    from refrag_rag.inspection import render

    if not options.out.parent.is_dir():
        raise InputError(f"{options.out} lies in no folder; expected one that exists.")
    reading = _asker(options).ask(options.question)
    options.out.write_text(render(reading.answer, title=options.question), encoding="utf-8")
    print(f"{reading.text}\n{options.out}")


def _asker(options: argparse.Namespace) -> "Asker":
    if not options.home.is_dir():  # before anything heavy is imported
        raise InputError(
            f"{options.home} holds no index; expected one. Run `refrag index FOLDER` first."
        )
    _check_asking(options)
    from refrag_rag.demo.ask import Asker
    from refrag_rag.demo.home import Home
    from refrag_rag.demo.library import open_index

    home = Home(options.home)
    record = home.settle(Path(home.existing().folder), options.model, options.k)
    settings = {"policy": "all" if options.full_text else options.policy, "p": options.p}
    index, engine = open_index(home), _load(options, record)
    return Asker(index, engine, top_k=options.top_k, max_new_tokens=ANSWER_TOKENS, **settings)


def _check_asking(options: argparse.Namespace) -> None:
    """Find mistakes before anything is loaded."""
    from refrag_rag.demo.ask import check_question
    from refrag_rag.policies import limit_of

    if options.question is not None:
        check_question(options.question)
    if options.top_k < 1:
        raise InputError(f"--top-k {options.top_k}; expected at least 1.")
    if options.full_text and (options.policy is not None or options.p is not None):
        raise InputError(
            "--full-text together with --policy or -p: it leaves all chunks as text; expected one "
            "or the other."
        )
    limit_of(0.0 if options.p is None else options.p, 0)  # checks the range


def _load(options: argparse.Namespace, record: "Record") -> "Refrag":
    from refrag_rag.demo.home import Home
    from refrag_rag.demo.quiet import quiet
    from refrag_rag.engine import Refrag

    print(f"loading {record.model} ...", file=sys.stderr, flush=True)
    store = Home(options.home).chunks
    with quiet():
        return Refrag.load(
            record.model, store=store, k=record.k, base=options.base,
            backend=vars(options).get("backend"),
        )  # fmt: skip
