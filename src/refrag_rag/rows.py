"""Rows of chunk embeddings: copied once from the store, and not joined where they lie in a row."""

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

KEPT = 2  # arrays that wait to be used again


class RowBuffers:
    """Memory for chunk embeddings that is used again as soon as nobody looks at it.

    Fresh memory costs a page fault for every 4 KiB, and an accelerator reads pinned memory faster.
    An array is handed out again only when no view of it is left, so that a prompt that somebody
    holds is never written over. Threads may share it.

    Parameters
    ----------
    pinned
        Whether to ask for page-locked memory.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self._arrays: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()
        self._unused = _references([np.empty(0, np.uint8)], 0)

    def allocate(self, rows: int, width: int, dtype: "np.dtype[Any]") -> NDArray[Any]:
        """An array of *shape* (rows, width), not initialised."""
        size = rows * width * dtype.itemsize
        with self._lock:
            for place in range(len(self._arrays)):
                if _references(self._arrays, place) == self._unused:
                    if self._arrays[place].nbytes < size:
                        self._arrays[place] = self._new(size)
                    return _shaped(self._arrays[place], rows, width, dtype)
            array = self._new(size)
            if len(self._arrays) < KEPT:
                self._arrays.append(array)
            return _shaped(array, rows, width, dtype)

    def _new(self, size: int) -> NDArray[np.uint8]:
        if self._pinned:
            tensor = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            pinned: NDArray[np.uint8] = tensor.numpy()
            return pinned
        return np.empty(size, np.uint8)


def join_rows(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """One array of all rows: a view where they already follow each other, else a copy.

    Parameters
    ----------
    arrays
        At least one, *shape* (n, D) each; not to be written to afterwards.

    Returns
    -------
    ndarray
        *Shape:* (sum of n, D)
    """
    first = arrays[0]
    base = first.base
    if len(arrays) == 1:
        return first
    if type(base) is not np.ndarray or not base.flags.c_contiguous:
        return np.concatenate(arrays)
    end = _address(first)
    for array in arrays:
        same = (
            array.base is base and array.dtype == first.dtype and array.shape[1:] == first.shape[1:]
        )
        if not same or not array.flags.c_contiguous or _address(array) != end:
            return np.concatenate(arrays)
        end += array.nbytes
    shape = (sum(map(len, arrays)), first.shape[1])
    offset = _address(first) - _address(base)
    return np.ndarray(shape, first.dtype, buffer=base, offset=offset)


def _shaped(
    array: NDArray[np.uint8], rows: int, width: int, dtype: "np.dtype[Any]"
) -> NDArray[Any]:
    return array[: rows * width * dtype.itemsize].view(dtype).reshape(rows, width)


def _references(arrays: list[NDArray[np.uint8]], place: int) -> int:
    return sys.getrefcount(arrays[place])


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
