"""An LMDB environment as this package opens it: once a process and path, with locks of our own."""

import fcntl
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb

from refrag_rag.errors import StoreError
from refrag_rag.store.pages import missing_page

DATA, LOCK, IN_USE, BESIDE = "data.mdb", "lock.mdb", "in-use", "compacting"
MAKING = 0.5  # seconds within which a new file gets its first pages


class Gate:
    """A read-write lock: transactions pass together (``with gate``), what moves the map alone.

    LMDB unmaps the file when the map grows: a value that another thread is reading would be gone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    def __enter__(self) -> None:
        """Pass with others; never inside another pass of the same thread."""
        with self._changed:
            while self._closed:
                self._changed.wait()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        """Leave."""
        with self._changed:
            self._inside -= 1
            if self._closed:  # somebody waits for the last to leave
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else in, and wait until all are out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()


class Environment:
    """An LMDB environment of this process, with a shared lock that tells others it is open.

    The parameters are those of `LMDBStore`.

    Attributes
    ----------
    process
        Whose it is; a forked child must not use it.
    handles
        Stores that use it.

    Raises
    ------
    StoreError
        If the file is truncated.
    """

    def __init__(self, path: Path, *, read_only: bool, map_size: int, read_ahead: bool) -> None:
        self.path, self.read_only, self.process = path, read_only, os.getpid()
        self.handles: weakref.WeakSet[object] = weakref.WeakSet()
        self._map_size, self._read_ahead = map_size, read_ahead
        self._gate = Gate()
        self.db: Any = None
        self._lock = os.open(path / IN_USE, os.O_RDONLY if read_only else os.O_RDONLY | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH)  # waits for a compaction that is going on
            self._refuse_emptied()
            self._open()
            self._refuse_truncated()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Any]:
        """Begin a transaction; it is committed at the end, or undone by an error.

        What it gives are views of the file, which are worth nothing after its end.
        """
        while True:
            with self._gate:
                try:
                    transaction = self.db.begin(None, None, write, True)
                except lmdb.MapResizedError:
                    transaction = None
                if transaction is not None:
                    with transaction:
                        yield transaction
                    break
            self.resize(0)  # another process has grown the map

    def resize(self, size: int) -> None:
        """Set the size of the map in bytes; 0 takes over what another process has set."""
        with self._gate.alone():
            self.db.set_mapsize(size)

    def shortfall(self) -> int:
        """Bytes that the file is shorter than the pages it counts.

        A transaction may leave pages at the end unwritten that nothing refers to.
        """
        info, page = self.db.info(), self.db.stat()["psize"]
        whole = (info["last_pgno"] + 1) * page
        return max(0, int(whole - (self.path / DATA).stat().st_size))

    def lengthen(self) -> None:
        """Give the file the length of the pages it counts, so that a truncated one is known."""
        with self.transaction(write=True):  # other processes must not write meanwhile
            have = (self.path / DATA).stat().st_size
            os.truncate(self.path / DATA, have + self.shortfall())

    def make_writable(self) -> None:
        """Open it again to write, where it was opened to read only; does nothing if it was not."""
        if not self.read_only:
            return
        with self._gate.alone():
            self.db.close()
            self.read_only = False
            try:
                self._open()
            except (OSError, lmdb.Error):
                self.read_only = True
                self._open()
                raise

    def compact(self) -> None:
        """Rewrite the file without unused pages.

        Raises
        ------
        StoreError
            If another process has it open, or there is no room.
        """
        with self._gate.alone():
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._rewrite()
            except BlockingIOError as error:
                raise StoreError(
                    f"{self.path} is open in another process; compaction needs it alone. "
                    "Close the other process and try again."
                ) from error
            except (OSError, lmdb.Error) as error:
                raise StoreError(
                    f"{self.path} cannot be compacted ({error}). Nothing was changed."
                ) from error
            finally:
                # Asking for the exclusive lock has dropped the shared one, granted or not: another
                # process may have replaced the file since, so it is opened under the lock again.
                self.db.close()
                fcntl.flock(self._lock, fcntl.LOCK_SH)
                self._open()

    def close(self) -> None:
        """Close files and lock."""
        if self.db is not None:
            self.db.close()
        os.close(self._lock)

    def _rewrite(self) -> None:
        beside = self.path / BESIDE
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            self.db.copy(str(beside), compact=True)
            _to_disk(beside / DATA)
            self.db.close()
            os.replace(beside / DATA, self.path / DATA)
            _to_disk(self.path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _open(self) -> None:
        self.db = lmdb.open(
            str(self.path),
            map_size=self._map_size,
            readonly=self.read_only,
            lock=not self.read_only or os.access(self.path / LOCK, os.W_OK),  # else nobody writes
            max_readers=512,
            readahead=self._read_ahead,
        )
        if not self.read_only:
            self.db.reader_check()  # a killed reader would keep old pages from being used again

    def _refuse_emptied(self) -> None:
        """A file of no bytes would be taken for a new store, unless another process makes it."""
        ends = time.monotonic() + MAKING
        file = self.path / DATA
        while file.exists() and not file.stat().st_size:
            if time.monotonic() > ends:
                raise StoreError(
                    f"{file} has no bytes left; expected a store. Restore it from a copy, or "
                    f"delete {self.path} and index again."
                )
            time.sleep(MAKING / 20)

    def _refuse_truncated(self) -> None:
        """Check a file that is shorter than its pages: entries may be gone, or unused pages."""
        missing = self.shortfall()
        if not missing:
            return
        with open(self.path / DATA, "rb") as file, self.transaction():
            page = missing_page(file.fileno(), self.db.stat()["psize"])
        if page is not None:
            raise StoreError(
                f"{self.path} is truncated: {missing} bytes are missing, and page {page} is in "
                "use. Restore it from a copy, or delete it and index again."
            )
        if not self.read_only:
            self.lengthen()


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
