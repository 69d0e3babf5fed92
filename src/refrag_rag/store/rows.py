"""Entries read into one array: chunk embeddings of many passages, copied once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.base import ChunkStore
from refrag_rag.store.entry import PassageEntry, StoredEntry
from refrag_rag.store.formats import Vectors
from refrag_rag.store.layout import Buffer, Pieces

Allocate = Callable[[int, int, "np.dtype[Any]"], Vectors]
"""``allocate(rows, width, dtype)`` gives a C-contiguous array, float16 or float32."""


def new_array(rows: int, width: int, dtype: "np.dtype[Any]") -> Vectors:
    """Allocate anew."""
    return np.empty((rows, width), dtype)


def read_rows(
    store: ChunkStore, namespace: str, keys: Sequence[str], allocate: Allocate = new_array
) -> list[PassageEntry | None]:
    """`LMDBStore.read_into` for any store."""
    read_into = getattr(store, "read_into", None)
    if read_into is not None:
        return read_into(namespace, keys, allocate)  # type: ignore[no-any-return]
    return fill(store.get(namespace, keys), allocate)


def readable(value: Pieces | Buffer) -> Pieces | PassageEntry:
    """Read an entry in the older layout whole."""
    return value if isinstance(value, Pieces) else PassageEntry.from_bytes(bytes(value))


def fill(
    found: Sequence[Pieces | PassageEntry | None], allocate: Allocate
) -> list[PassageEntry | None]:
    """Put all chunk embeddings into one array.

    Parameters
    ----------
    found
        None where there is no entry; those take no rows.

    Raises
    ------
    StoreError
        If the widths differ, or `allocate` gives something else than it was asked for.
    """
    sizes = [(0, 0, None) if one is None else _size(one) for one in found]
    widths = {width for _, width, dtype in sizes if dtype is not None}
    if not widths:
        return [None] * len(found)
    if len(widths) > 1:
        raise StoreError(
            f"Entries of {sorted(widths)} numbers a vector under one namespace; expected one "
            "width. Delete the namespace and index again."
        )
    rows, width = sum(chunks for chunks, _, _ in sizes), widths.pop()
    dtype = np.result_type(*{dtype for _, _, dtype in sizes if dtype is not None})
    out = allocate(rows, width, dtype)
    if out.shape != (rows, width) or not out.flags.c_contiguous:
        raise StoreError(f"An array {out.shape} was given; expected ({rows}, {width}), contiguous.")
    read: list[PassageEntry | None] = []
    start = 0
    for one, (chunks, _, _) in zip(found, sizes, strict=True):
        read.append(None if one is None else _put(one, out[start : start + chunks]))
        start += chunks
    return read


def _size(one: Pieces | PassageEntry) -> tuple[int, int, "np.dtype[Any]"]:
    if isinstance(one, PassageEntry):
        return *one.embeddings.shape, one.embeddings.dtype
    return one.header.chunks, one.header.width, one.header.format.dtype


def _put(one: Pieces | PassageEntry, rows: NDArray[Any]) -> PassageEntry:
    if isinstance(one, PassageEntry):
        rows[...] = one.embeddings
        return PassageEntry(rows, one.token_ids, one.chunk_lengths, one.char_ends, one.scores)
    header, start, first, second = one
    if header.format.plain and rows.dtype == header.format.dtype and rows.size:
        target = memoryview(rows.data).cast("B")
        target[: len(first)] = first  # aligned, and so several times faster than the other order
        target[len(first) :] = second
    else:
        header.format.decode(b"".join((first, second)), rows)
    return StoredEntry.over(rows, bytes(start), header)
