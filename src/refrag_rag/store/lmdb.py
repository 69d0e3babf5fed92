"""LMDBStore: entries on disk. One writer at a time, any number of reading processes.

Keys are ``namespace/key`` in one database. Deleted bytes stay in the file until `compact`.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from refrag_rag.errors import StoreError
from refrag_rag.store.entry import PassageEntry, sound_entry
from refrag_rag.store.environment import DATA, Environment
from refrag_rag.store.formats import get_format
from refrag_rag.store.opening import open_environments

FIRST_MAP = 64 << 20
LONGEST_KEY = 511
META_PAGES = 2
AT_ONCE = 1000  # a read transaction keeps old pages in use, so a long scan takes many
T = TypeVar("T")


class LMDBStore:
    """A `ChunkStore` in a folder. Threads may share it.

    Handles of one path in a process share what is open; each keeps to its own `read_only`.

    Parameters
    ----------
    path
        The folder; made if it does not exist.
    read_only
        Do not create or write anything.
    map_size
        First size of the memory map in bytes. It doubles when it is full.
    format
        Of the chunk embeddings that are put from now on: ``fp16``, ``fp32``, ``bf16`` or
        ``int8``. By default the one of their dtype. Entries in any format are read.
    read_ahead
        Whether the kernel reads ahead of what is asked for. Passages are read at random places, so
        that this pays only for small stores, which are in memory sooner with it. The first handle
        of a path in a process decides.

    Raises
    ------
    StoreError
        If the folder cannot be opened or, for a new one, written; if there is no such format.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        read_only: bool = False,
        map_size: int = FIRST_MAP,
        format: str | None = None,
        read_ahead: bool = False,
    ) -> None:
        self.format = None if format is None else get_format(format).name
        self.path = Path(path).expanduser().resolve()
        self.read_only = read_only
        self._map_size, self._read_ahead = map_size, read_ahead
        self._held: Environment | None = None
        self._environment()

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none; all from one snapshot.

        Every entry is checked: a damaged one is logged and counts as missing.
        """
        wanted = _keys(namespace, keys)
        with self._reading() as transaction:  # entries are copies: no view outlives it
            return [sound_entry(transaction.get(key), key.decode()) for key in wanted]

    def contains(self, namespace: str, keys: Sequence[str]) -> list[bool]:
        """Whether there is an entry, in the order of `keys`; reads keys alone."""
        wanted = _keys(namespace, keys)
        with self._reading() as transaction:
            return [transaction.get(key) is not None for key in wanted]

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries in one transaction, or none."""
        self.put_bytes(
            namespace, {key: entry.to_bytes(self.format) for key, entry in entries.items()}
        )

    def get_bytes(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        """Values as they are kept, unchecked; all from one snapshot."""
        wanted = _keys(namespace, keys)
        with self._reading() as transaction:
            found = map(transaction.get, wanted)
            return [None if value is None else bytes(value) for value in found]

    def put_bytes(self, namespace: str, values: Mapping[str, bytes]) -> None:
        """Write values as they are, in one transaction, or none."""
        data = list(zip(_keys(namespace, list(values)), values.values(), strict=True))
        if data:
            self._write(lambda transaction: [transaction.put(*one) for one in data])

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries in one transaction; returns how many there were."""
        unwanted = _keys(namespace, keys)
        return self._write(lambda transaction: sum([bool(transaction.delete(k)) for k in unwanted]))

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted; a snapshot."""
        (prefix,) = _keys(namespace, [""])
        found = []
        with self._reading() as transaction, transaction.cursor() as cursor:
            cursor.set_range(prefix)
            for key in cursor.iternext(values=False):
                if bytes(key[: len(prefix)]) != prefix:
                    break
                found.append(bytes(key[len(prefix) :]).decode())
        return iter(found)

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""
        found = []
        with self._reading() as transaction, transaction.cursor() as cursor:
            more = cursor.first()
            while more:
                key = bytes(cursor.key())
                name, slash, _ = key.partition(b"/")
                if not slash:
                    raise StoreError(
                        f"{self.path} has the key {key[:80]!r}, which is not of this "
                        "package; expected a store. Choose another path."
                    )
                found.append(name.decode(errors="replace"))
                more = cursor.set_range(name + b"0")  # '0' follows '/'
        return found

    def scan(self, work: Callable[[bytes, memoryview], T]) -> Iterator[tuple[bytes, T]]:
        """Every key with what `work` makes of its value, a view that must not leave it.

        New pages are not held up for long: each thousand entries are a snapshot of their own.
        """
        found: list[tuple[bytes, T]] = []
        while True:
            with self._reading() as transaction, transaction.cursor() as cursor:
                more = cursor.set_range(found[-1][0] + b"\0") if found else cursor.first()
                values = cursor.iternext() if more else ()
                found = [
                    (bytes(key), work(bytes(key), data)) for key, data in islice(values, AT_ONCE)
                ]
            if not found:
                return
            yield from found

    def sizes(self) -> tuple[int, int, int]:
        """Bytes of the file, of the memory map, and of the file's pages that nothing uses."""
        database = self._environment().db
        stat, info = database.stat(), database.info()
        used = META_PAGES + stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        free = max(0, info["last_pgno"] + 1 - used) * stat["psize"]
        return (self.path / DATA).stat().st_size, info["map_size"], free

    def compact(self) -> int:
        """Rewrite the file without deleted entries; returns the bytes saved.

        Raises
        ------
        StoreError
            If another process has the store open, or the store is read-only.
        """
        environment = self._writable()
        before = (self.path / DATA).stat().st_size
        environment.compact()
        return before - (self.path / DATA).stat().st_size

    def close(self) -> None:
        """Let go of the files; they close with the last handle of this process."""
        held, self._held = self._held, None
        if held is not None and held.process == os.getpid():
            open_environments().give_back(self, held)

    def __enter__(self) -> "LMDBStore":
        """Use as a context manager."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _environment(self) -> Environment:
        """What is open of this path; a handle that was closed, or came by a fork, opens anew."""
        held = self._held
        if held is None or held.process != os.getpid():
            held = self._held = open_environments().take(
                self,
                self.path,
                read_only=self.read_only,
                map_size=self._map_size,
                read_ahead=self._read_ahead,
            )
        return held

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with self._environment().transaction() as transaction:
                yield transaction
        except lmdb.Error as error:
            raise StoreError(
                f"{self.path} cannot be read ({error}). See `refrag store verify`."
            ) from error

    def _write(self, work: Callable[[Any], T]) -> T:
        """Run `work` in one transaction, again in a larger map as long as it does not fit."""
        environment = self._writable()
        while True:
            try:
                with environment.transaction(write=True) as transaction:
                    done = work(transaction)
                if environment.shortfall():
                    environment.lengthen()
                return done
            except lmdb.MapFullError:
                environment.resize(2 * environment.db.info()["map_size"])
            except (OSError, lmdb.Error) as error:
                raise StoreError(
                    f"{self.path} cannot be written ({error}). Nothing was changed. Is the disk "
                    "full?"
                ) from error

    def _writable(self) -> Environment:
        if self.read_only:
            raise StoreError(f"{self.path} was opened read-only. Open it again to write.")
        return self._environment()


def _keys(namespace: str, keys: Sequence[str]) -> list[bytes]:
    start = f"{namespace}/".encode()
    made = [start + key.encode() for key in keys]
    if namespace and "/" not in namespace and max(map(len, made), default=0) <= LONGEST_KEY:
        return made
    longest = max(keys, key=len, default="")
    raise StoreError(
        f"Namespace {namespace[:80]!r} with key {longest[:80]!r}; expected a namespace without "
        f"'/' and at most {LONGEST_KEY} bytes together."
    )
