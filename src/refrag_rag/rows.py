"""Rows of arrays: chunk embeddings are copied once, so what lies side by side is not joined."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    if len(arrays) == 1:
        return first
    base = first.base
    if (
        isinstance(base, np.ndarray)
        and base.ndim == 2
        and base.flags.c_contiguous
        and base.dtype == first.dtype
        and base.shape[1] == first.shape[1]
    ):
        start = end = (_address(first) - _address(base)) // base.strides[0]
        for array in arrays:
            if array.base is not base or _address(array) != _address(base) + end * base.strides[0]:
                return np.concatenate(arrays)
            end += len(array)
        joined: NDArray[Any] = base[start:end]
        return joined
    return np.concatenate(arrays)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
