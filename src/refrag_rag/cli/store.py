"""``refrag store``: thin, every command a few lines over the library."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from refrag_rag.errors import InputError, StoreError

SHOWN = 20


def add_store(commands: Any) -> None:
    """Add ``store`` to the subparsers of the command line."""
    store = commands.add_parser("store", help="look after a store: stat, verify, compact, gc ...")
    parts = store.add_subparsers(required=True, metavar="COMMAND")
    for name, run, about in (
        ("stat", _stat, "passages, bytes, bytes per token, what is free"),
        ("verify", _verify, "read every entry; status 1 if one is damaged"),
        ("compact", _compact, "rewrite the file without deleted entries"),
    ):
        part = parts.add_parser(name, help=about)
        part.add_argument("path", type=Path, help="folder of the store")
        part.set_defaults(run=run)

    garbage = parts.add_parser("gc", help="remove entries of passages that no longer exist")
    garbage.add_argument("path", type=Path, help="folder of the store")
    garbage.add_argument(
        "--against", type=Path, action="append", required=True, metavar="SOURCE",
        help="all passages that exist: a JSON-lines file of texts, or a persisted LlamaIndex "
        "storage folder or docstore file; repeatable",
    )  # fmt: skip
    garbage.add_argument(
        "--metadata", choices=("compressed", "text", "drop"), default="compressed",
        help="of a LlamaIndex source, as in RefragTransform (default: compressed)",
    )  # fmt: skip
    garbage.add_argument("--namespace", help="only this one (default: all)")
    garbage.add_argument("--dry-run", action="store_true", help="only count")
    garbage.set_defaults(run=_gc)

    into = parts.add_parser("merge", help="put the entries of other stores into a store")
    into.add_argument("path", type=Path, help="folder of the store; made if there is none")
    into.add_argument("others", type=Path, nargs="+", help="folders of other stores")
    into.set_defaults(run=_merge)


def _stat(options: argparse.Namespace) -> None:
    from refrag_rag.store.lmdb import LMDBStore
    from refrag_rag.store.upkeep import stat

    with LMDBStore(options.path, read_only=True) as store:
        found = stat(store)
    for one in found.namespaces:
        formats = ", ".join(f"{count} {name}" for name, count in sorted(one.formats.items()))
        print(f"namespace {one.namespace}")
        print(f"  passages {one.passages}, chunks {one.chunks}, tokens {one.tokens}")
        print(f"  bytes {one.bytes}, per token {one.bytes_per_token:.1f}; formats: {formats}")
    print(f"file {found.file} bytes, {found.bytes_per_token:.1f} in use per token")
    print(f"free {found.free} bytes (deleted or replaced; `compact` gives them back)")
    print(f"map {found.map} bytes (grows by itself)")


def _verify(options: argparse.Namespace) -> None:
    from refrag_rag.store.lmdb import LMDBStore
    from refrag_rag.store.upkeep import verify

    with LMDBStore(options.path, read_only=True) as store:
        found = verify(store)
    for one in found.damaged[:SHOWN]:
        print(f"{one.namespace}/{one.key}: {one.reason}")
    if found.damaged:
        raise StoreError(
            f"{len(found.damaged)} of {found.entries} entries of {options.path} are damaged. "
            "Delete them and index again."
        )
    print(f"{found.entries} entries, none damaged")


def _compact(options: argparse.Namespace) -> None:
    from refrag_rag.store.lmdb import LMDBStore

    _must_exist(options.path)
    with LMDBStore(options.path) as store:
        print(f"{store.compact()} bytes given back")


def _gc(options: argparse.Namespace) -> None:
    from refrag_rag.store.lmdb import LMDBStore
    from refrag_rag.store.sources import passage_keys
    from refrag_rag.store.upkeep import collect_garbage

    _must_exist(options.path)
    keys: set[str] = set()
    for source in options.against:
        found = passage_keys(_texts(source, options.metadata))
        print(f"{len(found)} passages in {source}")
        keys |= found
    with LMDBStore(options.path, read_only=options.dry_run) as store:
        done = collect_garbage(store, keys, namespace=options.namespace, dry_run=options.dry_run)
    verb = "would be removed" if options.dry_run else "removed"
    for one in done:
        print(f"namespace {one.namespace}: {one.kept} kept, {one.removed} {verb}")


def _texts(source: Path, metadata: Any) -> Iterable[str]:
    from refrag_rag.store.sources import read_texts

    if not source.is_dir() and source.suffix != ".json":
        return read_texts(source)
    try:
        from refrag_rag.llama_index.persisted import persisted_texts
    except ImportError as error:
        raise InputError(
            f"{source} was given as LlamaIndex storage, but {error.name} is not installed; "
            "pip install 'refrag-rag[llama-index]', or give a JSON-lines file."
        ) from error
    return persisted_texts(source, metadata)


def _merge(options: argparse.Namespace) -> None:
    from refrag_rag.store.lmdb import LMDBStore
    from refrag_rag.store.merge import merge_stores

    for other in options.others:  # before the store is made
        _must_exist(other)
    with LMDBStore(options.path) as store:
        done = merge_stores(store, options.others)
    print(
        f"{done.entries} entries in {done.stores} stores: {done.new} new, {done.scored} scored, "
        f"{done.damaged} damaged and left out"
    )


def _must_exist(path: Path) -> None:
    from refrag_rag.store.lmdb import LMDBStore

    LMDBStore(path, read_only=True).close()
