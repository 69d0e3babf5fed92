"""LMDBStore: entries on disk. One writer at a time, any number of reading processes.

Keys are ``namespace/key`` in one database. Deleted bytes stay in the file until `compact`.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb

from refrag_rag.errors import StoreError
from refrag_rag.store.entry import PassageEntry

DATA, IN_USE = "data.mdb", "in-use"
FIRST_MAP = 64 << 20
LONGEST_KEY = 511


class _Environment:
    """An LMDB environment of this process, with a shared lock that tells others it is open."""

    def __init__(self, path: Path, *, read_only: bool, map_size: int) -> None:
        self.path, self.read_only, self.handles = path, read_only, 0
        self._map_size = map_size
        self.lock = os.open(path / IN_USE, os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT)
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        self.open()

    def open(self) -> None:
        """Open the files, after compaction again."""
        self.db = lmdb.open(
            str(self.path),
            map_size=self._map_size,
            readonly=self.read_only,
            lock=True,
            max_readers=512,
        )

    def close(self) -> None:
        """Close files and lock."""
        self.db.close()
        os.close(self.lock)


# LMDB forbids a second open of one path in a process, so handles share; a forked child opens anew.
_open: dict[tuple[int, Path], _Environment] = {}


class LMDBStore:
    """A `ChunkStore` in a folder.

    Parameters
    ----------
    path
        The folder; made if it does not exist.
    read_only
        Do not create or write anything.
    map_size
        First size of the memory map in bytes. It doubles when it is full.

    Raises
    ------
    StoreError
        If the folder cannot be opened or, for a new one, written.
    """

    def __init__(
        self, path: str | Path, *, read_only: bool = False, map_size: int = FIRST_MAP
    ) -> None:
        self.path = Path(path).expanduser().resolve()
        self.read_only = read_only
        self._map_size = map_size
        self._process = 0
        self._environment()

    def get(self, namespace: str, keys: Sequence[str]) -> list[PassageEntry | None]:
        """Entries in the order of `keys`, None where there is none; all from one snapshot."""
        with self._begin() as transaction:  # values are copied out: no view outlives it
            found = [transaction.get(_key(namespace, key)) for key in keys]
        return [None if data is None else PassageEntry.from_bytes(data) for data in found]

    def put(self, namespace: str, entries: Mapping[str, PassageEntry]) -> None:
        """Write all entries in one transaction, or none."""
        data = {_key(namespace, key): entry.to_bytes() for key, entry in entries.items()}

        def write(transaction: Any) -> None:
            for key, value in data.items():
                transaction.put(key, value)

        if data:
            self._write(write)

    def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Delete entries; returns how many there were."""
        return sum(
            self._write(lambda transaction: [transaction.delete(_key(namespace, k)) for k in keys])
        )

    def keys(self, namespace: str) -> Iterator[str]:
        """All keys of a namespace, sorted; a snapshot."""
        prefix = _key(namespace, "")
        found = []
        with self._begin() as transaction, transaction.cursor() as cursor:
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                found.append(cursor.key()[len(prefix) :].decode())
                more = cursor.next()
        return iter(found)

    def namespaces(self) -> list[str]:
        """All namespaces that have entries, sorted."""
        found = []
        with self._begin() as transaction, transaction.cursor() as cursor:
            more = cursor.first()
            while more:
                found.append(cursor.key().split(b"/", 1)[0].decode())
                more = cursor.set_range(found[-1].encode() + b"0")  # '0' follows '/'
        return found

    def compact(self) -> int:
        """Rewrite the file without deleted entries; returns the bytes saved.

        Raises
        ------
        StoreError
            If another process has the store open, or the store is read-only.
        """
        environment = self._environment()
        self._check_writable()
        try:
            fcntl.flock(environment.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"{self.path} is open in another process; compaction needs it alone. "
                "Close the other process and try again."
            ) from error
        beside = self.path / "compacting"
        before = (self.path / DATA).stat().st_size
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            environment.db.copy(str(beside), compact=True)
            environment.db.close()
            os.replace(beside / DATA, self.path / DATA)
        except (OSError, lmdb.Error) as error:
            raise StoreError(f"{self.path} cannot be compacted ({error}).") from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            environment.db.close()
            environment.open()
            fcntl.flock(environment.lock, fcntl.LOCK_SH)
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

    def _environment(self) -> _Environment:
        place = (os.getpid(), self.path)
        if self._process != os.getpid():
            _forget_parents()
            if place not in _open:
                _open[place] = self._open()
            _open[place].handles += 1
            self._process = os.getpid()
        return _open[place]

    def _open(self) -> _Environment:
        new = not self.path.exists()
        try:
            if not self.read_only:
                self.path.mkdir(parents=True, exist_ok=True)
            return _Environment(self.path, read_only=self.read_only, map_size=self._map_size)
        except (OSError, lmdb.Error) as error:
            if new:
                shutil.rmtree(self.path, ignore_errors=True)
            raise StoreError(
                f"The store {self.path} cannot be opened ({error}); expected a folder that can be "
                f"{'read' if self.read_only else 'written'}. Choose another path."
            ) from error

    def _begin(self, *, write: bool = False) -> Any:
        environment = self._environment()
        try:
            return environment.db.begin(write=write)
        except lmdb.MapResizedError:  # another process has grown the map
            environment.db.set_mapsize(0)
            return environment.db.begin(write=write)

    def _write(self, work: Callable[[Any], Any]) -> Any:
        """Run `work` in one transaction, again in a larger map as long as it does not fit."""
        self._check_writable()
        while True:
            try:
                with self._begin(write=True) as transaction:
                    return work(transaction)
            except lmdb.MapFullError:
                database = self._environment().db
                database.set_mapsize(2 * database.info()["map_size"])
            except lmdb.Error as error:
                raise StoreError(
                    f"{self.path} cannot be written ({error}). Nothing was changed."
                ) from error

    def _check_writable(self) -> None:
        if self._environment().read_only:
            raise StoreError(f"{self.path} was opened read-only. Open it again to write.")


def _forget_parents() -> None:
    """In a forked child, let go of what the parent had open: LMDB refuses to open it again."""
    for place in [place for place in _open if place[0] != os.getpid()]:
        _open.pop(place).close()


def _key(namespace: str, key: str) -> bytes:
    made = f"{namespace}/{key}".encode()
    if not namespace or "/" in namespace or len(made) > LONGEST_KEY:
        raise StoreError(
            f"Namespace {namespace[:80]!r} with key {key[:80]!r}; expected a namespace without "
            f"'/' and at most {LONGEST_KEY} bytes together."
        )
    return made
