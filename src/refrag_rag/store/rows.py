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
    sizes = [_size(one) for one in found if one is not None]
    if not sizes:
        return [None] * len(found)
    widths = {width for _, width, _ in sizes}
    if len(widths) > 1:
        raise StoreError(
            f"Entries of {sorted(widths)} numbers a vector under one namespace; expected one "
            "width. Delete the namespace and index again."
        )
    rows, width = sum(chunks for chunks, _, _ in sizes), widths.pop()
    dtype = np.result_type(*{dtype for _, _, dtype in sizes})
    out = allocate(rows, width, dtype)
    if out.shape != (rows, width) or not out.flags.c_contiguous:
        raise StoreError(f"An array {out.shape} was given; expected ({rows}, {width}), contiguous.")
    if all(one is None or (isinstance(one, Pieces) and _copies(one, dtype)) for one in found):
        return _copy(found, out)  # type: ignore[arg-type]
    read: list[PassageEntry | None] = []
    start = 0
    for one in found:
        chunks = 0 if one is None else _size(one)[0]
        read.append(None if one is None else _put(one, out[start : start + chunks]))
        start += chunks
    return read


def _size(one: Pieces | PassageEntry) -> tuple[int, int, "np.dtype[Any]"]:
    if isinstance(one, PassageEntry):
        return *one.embeddings.shape, one.embeddings.dtype
    header = one.header
    return header.chunks, header.width, header.format.dtype


def _put(one: Pieces | PassageEntry, rows: NDArray[Any]) -> PassageEntry:
    if isinstance(one, PassageEntry):
        rows[...] = one.embeddings
        return PassageEntry(rows, one.token_ids, one.chunk_lengths, one.char_ends, one.scores)
    header, start, first, second = one
    header.format.decode(b"".join((first, second)), rows)
    return StoredEntry.over(rows, 0, bytes(start), header)


def _copies(one: Pieces, dtype: "np.dtype[Any]") -> bool:
    return one.header.format.plain and one.header.format.dtype == dtype


def _copy(found: Sequence[Pieces | None], out: Vectors) -> list[PassageEntry | None]:
    """Copy bytes: what the speed of a question hangs on, so with as few steps as there can be."""
    target = memoryview(out.data).cast("B") if out.size else memoryview(b"")
    read: list[PassageEntry | None] = []
    row = place = 0
    for one in found:
        if one is None:
            read.append(None)
            continue
        header, start, first, second = one
        turn, end = place + len(first), place + header.payload
        target[place:turn] = first  # aligned, and so several times faster than the other order
        if turn < end:
            target[turn:end] = second
        read.append(StoredEntry.over(out, row, bytes(start), header))
        row, place = row + header.chunks, end
    return read
