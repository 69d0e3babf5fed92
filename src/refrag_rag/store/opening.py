"""The environments that this process has open."""

import os
import shutil
import threading
from pathlib import Path

import lmdb

from refrag_rag.errors import StoreError
from refrag_rag.store.environment import Environment


class OpenEnvironments:
    """The environments of one process, one a path: LMDB forbids a second open.

    Threads may share it. The last handle closes an environment.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_path: dict[Path, Environment] = {}

    def take(
        self, handle: object, path: Path, *, read_only: bool, map_size: int, read_ahead: bool
    ) -> Environment:
        """The environment of a path: opened if it is not, and again if it was to read only.

        Parameters
        ----------
        handle
            Who uses it, until it is given back.
        map_size, read_ahead
            Those of the first handle hold.

        Raises
        ------
        StoreError
            If it cannot be opened.
        """
        with self._lock:
            _forget_parents()
            new = False
            try:
                new = not path.exists()
                environment = self._by_path.get(path)
                if environment is None:
                    if not read_only:
                        path.mkdir(parents=True, exist_ok=True)
                    environment = self._by_path[path] = Environment(
                        path, read_only=read_only, map_size=map_size, read_ahead=read_ahead
                    )
                elif not read_only:
                    environment.make_writable()
            except (OSError, lmdb.Error) as error:
                if new:
                    shutil.rmtree(path, ignore_errors=True)
                raise StoreError(
                    f"The store {path} cannot be opened ({error}); expected a folder that can be "
                    f"{'read' if read_only else 'written'}. Choose another path."
                ) from error
            environment.handles.add(handle)
            return environment

    def give_back(self, handle: object, environment: Environment) -> None:
        """Let go."""
        with self._lock:
            environment.handles.discard(handle)
            if not environment.handles:
                environment.close()
                del self._by_path[environment.path]

    def close_all(self) -> None:
        """In a forked child: close what the parent has open; the parent's files stay open."""
        for environment in self._by_path.values():
            environment.close()


# By process: a forked child opens anew, and its parent's lock may be taken for ever.
_of_process: dict[int, OpenEnvironments] = {}


def open_environments() -> OpenEnvironments:
    """Those of this process."""
    return _of_process.setdefault(os.getpid(), OpenEnvironments())


def _forget_parents() -> None:
    for process in [process for process in _of_process if process != os.getpid()]:
        _of_process.pop(process).close_all()
