"""LMDBStore: entries on disk. One writer at a time, any number of reading processes.

Keys are ``namespace/key`` in one database. Deleted bytes stay in the file until `compact`.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import lmdb

from refrag_rag.errors import StoreError
from refrag_rag.store import records
from refrag_rag.store.entry import PassageEntry
from refrag_rag.store.environment import DATA, Environment
from refrag_rag.store.formats import get_format
from refrag_rag.store.joint import read_together
from refrag_rag.store.rows import Allocate, fill, new_array

FIRST_MAP = 64 << 20
LONGEST_KEY = 511 - len(records.BODY)
T = TypeVar("T")

# LMDB forbids a second open of one path in a process, so handles share; a forked child opens anew.
_open: dict[tuple[int, Path], Environment] = {}


class LMDBStore:
    """A `ChunkStore` in a folder. Threads may share it.

    Parameters
    ----------
    path
        The folder; made if it does not exist.
    read_only
        Do not create or write anything.
    map_size
        First size of the memory map in bytes. It doubles when it is full.
    vectors
        Format of the chunk embeddings that are put from now on: ``fp16``, ``fp32``, ``bf16`` or
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
        vectors: str | None = None,
        read_ahead: bool = False,
    ) -> None:
        self.vectors = None if vectors is None else get_format(vectors).name
        self.path = Path(path).expanduser().resolve()
        self.read_only = read_only
        self._map_size, self._read_ahead = map_size, read_ahead
        self._process = 0
        self._environment()

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none; all from one snapshot."""
        found = self.get_bytes(namespace, keys)
        return [None if data is None else PassageEntry.from_bytes(data) for data in found]

    def get_bytes(self, namespace: str, keys: Sequence[str]) -> list[bytes | None]:
        """Values as they are kept, unchecked; all from one snapshot."""
        wanted = _keys(namespace, keys)
        with self._reading() as transaction:  # values are copied out: no view outlives it
            return [records.get(transaction, key) for key in wanted]

    def read_into(
        self, namespace: str, keys: Sequence[str], allocate: Allocate = new_array
    ) -> list[PassageEntry | None]:
        """Entries with their chunk embeddings as consecutive rows of one array.

        Copies once, from the memory map to the array. Unlike `get` it does not compare checksums.

        Parameters
        ----------
        allocate
            ``allocate(rows, width, dtype)`` gives a C-contiguous array of that shape, float16 or
            float32: a new one, or part of one that is used again.

        Returns
        -------
        list
            In the order of `keys`, None where there is none. The entries' `embeddings` are views
            of the array, row after row in this order.

        Raises
        ------
        StoreError
            If an entry is damaged, or if the entries have different widths.
        """
        wanted = _keys(namespace, keys)
        with self._reading(buffers=True) as transaction:
            read = read_together(transaction, wanted, allocate)
            if read is not None:
                return [*read]
            return fill([records.find(transaction, key) for key in wanted], allocate)

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries in one transaction, or none."""
        self.put_bytes(
            namespace, {key: entry.to_bytes(self.vectors) for key, entry in entries.items()}
        )

    def put_bytes(self, namespace: str, values: Mapping[str, bytes]) -> None:
        """Write values as they are, in one transaction, or none."""
        data = dict(zip(_keys(namespace, list(values)), values.values(), strict=True))
        if not data:
            return
        page = self._environment().db.stat()["psize"]

        def write(transaction: Any) -> None:
            for key, value in data.items():
                records.put(transaction, key, value, page)

        self._write(write)

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries in one transaction; returns how many there were."""
        unwanted = _keys(namespace, keys)
        return self._write(lambda t: sum([records.delete(t, key) for key in unwanted]))

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted; a snapshot."""
        (prefix,) = _keys(namespace, [""])
        with self._reading(buffers=True) as transaction:
            found = [key[len(prefix) :].decode() for key, _ in records.heads(transaction, prefix)]
        return iter(found)

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""
        found = []
        with self._reading() as transaction, transaction.cursor() as cursor:
            more = cursor.first()
            while more:
                name, slash, _ = cursor.key().partition(b"/")
                if not slash:
                    raise StoreError(
                        f"{self.path} has the key {cursor.key()[:80]!r}, which is not of this "
                        "package; expected a store. Choose another path."
                    )
                found.append(name.decode(errors="replace"))
                more = cursor.set_range(name + b"0")  # '0' follows '/'
        return found

    def scan(self, work: Callable[[Any], T]) -> T:
        """Run `work` on a read transaction whose values are views; none may leave it."""
        with self._reading(buffers=True) as transaction:
            return work(transaction)

    def map_info(self) -> dict[str, int]:
        """LMDB's own numbers: page size, pages in use, pages counted, size of map and file."""
        database = self._environment().db
        stat, info = database.stat(), database.info()
        return {
            "page": stat["psize"],
            "used_pages": stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"],
            "pages": info["last_pgno"] + 1,
            "map": info["map_size"],
            "file": (self.path / DATA).stat().st_size,
        }

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
        if self._process != os.getpid():
            return
        self._process = 0
        environment = _open[os.getpid(), self.path]
        environment.handles -= 1
        if not environment.handles:
            environment.close()
            del _open[os.getpid(), self.path]

    def __enter__(self) -> "LMDBStore":
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _environment(self) -> Environment:
        place = (os.getpid(), self.path)
        if self._process != os.getpid():
            _forget_parents()
            if place not in _open:
                _open[place] = self._open()
            _open[place].handles += 1
            self._process = os.getpid()
        return _open[place]

    def _open(self) -> Environment:
        new = not self.path.exists()
        try:
            if not self.read_only:
                self.path.mkdir(parents=True, exist_ok=True)
            environment = Environment(
                self.path,
                read_only=self.read_only,
                map_size=self._map_size,
                read_ahead=self._read_ahead,
            )
        except (OSError, lmdb.Error) as error:
            if new:
                shutil.rmtree(self.path, ignore_errors=True)
            raise StoreError(
                f"The store {self.path} cannot be opened ({error}); expected a folder that can be "
                f"{'read' if self.read_only else 'written'}. Choose another path."
            ) from error
        records.refuse_truncated(environment)
        return environment

    @contextmanager
    def _reading(self, *, buffers: bool = False) -> Iterator[Any]:
        try:
            with self._environment().transaction(buffers=buffers) as transaction:
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
        environment = self._environment()
        if environment.read_only or self.read_only:
            raise StoreError(f"{self.path} was opened read-only. Open it again to write.")
        return environment


def _forget_parents() -> None:
    """In a forked child, let go of what the parent had open: LMDB refuses to open it again."""
    for place in [place for place in _open if place[0] != os.getpid()]:
        _open.pop(place).close()


def _keys(namespace: str, keys: Sequence[str]) -> list[bytes]:
    start = f"{namespace}/".encode()
    made = [start + key.encode() for key in keys]
    fine = namespace and "/" not in namespace and "\0" not in "".join(keys)
    if fine and max(map(len, made), default=0) <= LONGEST_KEY:
        return made
    if len(keys) > 1:  # says which
        return [_keys(namespace, [key])[0] for key in keys]
    raise StoreError(
        f"Namespace {namespace[:80]!r} with key {''.join(keys)[:80]!r}; expected a namespace "
        f"without '/', no zero character and at most {LONGEST_KEY} bytes together."
    )
