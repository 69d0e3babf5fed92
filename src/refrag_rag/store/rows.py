"""Entries read into one array: chunk embeddings of many passages, copied once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.base import ChunkStore
from refrag_rag.store.entry import PassageEntry, StoredEntry
from refrag_rag.store.formats import Vectors
from refrag_rag.store.layout import Pieces

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
    rows, widths, dtypes, copied = _sizes(found)
    if not widths:
        return [None] * len(found)
    if len(widths) > 1:
        raise StoreError(
            f"Entries of {sorted(widths)} numbers a vector under one namespace; expected one "
            "width. Delete the namespace and index again."
        )
    width = widths.pop()
    out = allocate(rows, width, np.result_type(*dtypes))
    if out.shape != (rows, width) or not out.flags.c_contiguous:
        raise StoreError(f"An array {out.shape} was given; expected ({rows}, {width}), contiguous.")
    if copied and len(dtypes) == 1:
        return _copy(found, out)  # type: ignore[arg-type]
    read: list[PassageEntry | None] = []
    start = 0
    for one in found:
        chunks = 0 if one is None else _shape(one)[0]
        read.append(None if one is None else _put(one, out[start : start + chunks]))
        start += chunks
    return read


def _sizes(
    found: Sequence[Pieces | PassageEntry | None],
) -> tuple[int, set[int], set["np.dtype[Any]"], bool]:
    """Rows, widths and dtypes of all, and whether reading them is copying bytes."""
    rows, widths, dtypes, copied = 0, set(), set(), True
    last = None
    for one in found:
        if one is None:
            continue
        header = one[0] if isinstance(one, tuple) else None
        if header is None or header is not last:  # entries of the same sizes share their header
            last = header
            chunks, width, dtype = _shape(one)
            widths.add(width)
            dtypes.add(dtype)
            copied = copied and header is not None and header.format.plain
        rows += chunks
    return rows, widths, dtypes, copied


def _shape(one: Pieces | PassageEntry) -> tuple[int, int, "np.dtype[Any]"]:
    if isinstance(one, PassageEntry):
        return *one.embeddings.shape, one.embeddings.dtype
    header = one[0]
    return header.chunks, header.width, header.format.dtype


def _put(one: Pieces | PassageEntry, rows: NDArray[Any]) -> PassageEntry:
    if isinstance(one, PassageEntry):
        rows[...] = one.embeddings
        return PassageEntry(rows, one.token_ids, one.chunk_lengths, one.char_ends, one.scores)
    header, head, body = one
    start, rest = head[: header.cut], head[header.cut :]
    header.format.decode(b"".join((body, rest)), rows)
    return StoredEntry.over(rows, 0, bytes(start), header)


def _copy(found: Sequence[Pieces | None], out: Vectors) -> list[PassageEntry | None]:
    """Copy bytes: what the speed of a question hangs on, so with as few steps as there can be."""
    target = memoryview(out.data).cast("B") if out.size else memoryview(b"")
    over = StoredEntry.over
    read: list[PassageEntry | None] = []
    row = place = 0
    for one in found:
        if one is None:
            read.append(None)
            continue
        header, head, body = one
        cut = header.cut
        turn, end = place + len(body), place + header.payload
        target[place:turn] = body  # aligned, and so several times faster than the other order
        if turn < end:
            target[turn:end] = head[cut : header.total - len(body)]
        read.append(over(out, row, bytes(head[:cut]), header))
        row, place = row + header.chunks, end
    return read
