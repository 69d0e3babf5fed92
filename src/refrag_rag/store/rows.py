"""Entries read into one array: chunk embeddings of many passages, copied once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.base import ChunkStore
from refrag_rag.store.entry import PassageEntry, ReadTogether, stored_entries
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
    shapes = [_shape(one) for one in found if one is not None]
    if not shapes:
        return [None] * len(found)
    rows = sum(chunks for chunks, _, _ in shapes)
    width = check_widths({width for _, width, _ in shapes})
    out = allocate(rows, width, np.result_type(*{dtype for _, _, dtype in shapes}))
    check_rows(out, rows, width)
    read: list[PassageEntry | None] = []
    start = 0
    for one in found:
        chunks = 0 if one is None else _shape(one)[0]
        read.append(None if one is None else _put(one, out[start : start + chunks]))
        start += chunks
    return read


def check_widths(widths: set[int]) -> int:
    """The one width of vectors that are to stand in one array.

    Raises
    ------
    StoreError
        If there are several.
    """
    if len(widths) > 1:
        raise StoreError(
            f"Entries of {sorted(widths)} numbers a vector under one namespace; expected one "
            "width. Delete the namespace and index again."
        )
    return next(iter(widths))


def check_rows(out: Vectors, rows: int, width: int) -> None:
    """Check an array that was allocated by someone else.

    Raises
    ------
    StoreError
        If it has another shape, or gaps.
    """
    if out.shape != (rows, width) or not out.flags.c_contiguous:
        raise StoreError(f"An array {out.shape} was given; expected ({rows}, {width}), contiguous.")


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
    return stored_entries(ReadTogether(bytes(start), rows, [header]))[0]
