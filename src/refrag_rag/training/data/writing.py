"""Writing that leaves nothing half done: a folder beside, renamed into place when complete."""

import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from refrag_rag.errors import InputError
from refrag_rag.training.data.report import REPORT

HEADER = 128  # bytes; a multiple of 64, as the format asks, with room for any length


@contextmanager
def replaced_folder(folder: Path, files: Sequence[str]) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends well.

    An error or a kill before the end leaves `folder` as it was. The exchange is two renames: a
    kill between them leaves the old folder beside, under a hidden name that ends in ``.old``.

    Parameters
    ----------
    folder
        The place.
    files
        What a folder that may be replaced can hold, beside its report.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds other files.
    """
    folder = folder.expanduser().resolve()
    _check_ours(folder, {*files, REPORT})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error}). Choose another place.") from error
    try:
        yield part
        part.chmod(0o755)
        _exchange(part, folder)
    except OSError as error:
        raise InputError(
            f"{folder} was not prepared ({error}). Nothing was changed; try again."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def streamed_array(path: Path, dtype: DTypeLike) -> Iterator[Callable[[Sequence[int]], None]]:
    """A one-dimensional ``.npy`` file of unknown length; the block gets a function that appends.

    Until the block ends the header says that the array is empty.
    """
    kind = np.dtype(dtype)
    count = 0
    with path.open("wb") as file:
        file.write(_header(kind, 0))

        def append(values: Sequence[int]) -> None:
            nonlocal count
            file.write(np.asarray(values, dtype=kind).tobytes())
            count += len(values)

        yield append
        file.seek(0)
        file.write(_header(kind, count))
        file.flush()
        os.fsync(file.fileno())


def _header(kind: np.dtype[np.generic], length: int) -> bytes:
    """A header of version 1.0, which has the same size for every length."""
    described = repr({"descr": kind.str, "fortran_order": False, "shape": (length,)})
    start = npy.magic(1, 0)
    room = HEADER - len(start) - 2
    return start + struct.pack("<H", room) + f"{described:<{room - 1}}\n".encode("latin-1")


def _check_ours(folder: Path, files: set[str]) -> None:
    if not folder.exists():
        return
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    ours = folder.is_dir() and there <= files and (REPORT in there or not there)
    if not ours:
        raise InputError(
            f"{folder} holds {', '.join(sorted(there - files)[:3] or sorted(there))}; expected a "
            "new or empty folder, or one of prepared data, which is replaced. Choose another."
        )


def _exchange(part: Path, folder: Path) -> None:
    if not folder.exists():
        part.rename(folder)
        return
    old = part.with_suffix(".old")
    folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
