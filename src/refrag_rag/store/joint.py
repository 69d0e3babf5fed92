"""Entries of an LMDB database read together: what the time of a question hangs on.

Nothing is computed for a passage that can be done for all at once, loops that need no Python run
without it, and chunk embeddings are copied once, from the memory map to their rows.
"""

import struct
from collections.abc import Sequence
from itertools import starmap
from typing import Any

from refrag_rag.store.entry import PassageEntry, ReadTogether, stored_entries
from refrag_rag.store.formats import Vectors
from refrag_rag.store.layout import UNCHECKED, Buffer, Header, damaged, parse_header
from refrag_rag.store.records import BODY
from refrag_rag.store.rows import Allocate, check_rows, check_widths

FIRST = struct.Struct(f"{UNCHECKED}s")


def read_together(
    transaction: Any, keys: Sequence[bytes], allocate: Allocate
) -> list[PassageEntry | None] | None:
    """Read entries whose chunk embeddings are kept as they are read, in one dtype.

    Parameters
    ----------
    transaction
        Its values are views.
    allocate
        See `LMDBStore.read_into`.

    Returns
    -------
    list or None
        None if there is an entry of another kind, which `fill` reads.

    Raises
    ------
    StoreError
        If an entry is damaged, or if the entries have different widths.
    """
    heads = list(map(transaction.get, keys))
    found = [(key, head) for key, head in zip(keys, heads, strict=True) if head is not None]
    headers = _headers([head for _, head in found])
    if headers is None:
        return None
    kinds = dict(zip(map(id, headers), headers, strict=True)).values()  # cached: mostly few
    if not kinds:
        return [None] * len(keys)
    width = check_widths({kind.width for kind in kinds})
    dtypes = {kind.format.dtype for kind in kinds}
    if len(dtypes) > 1 or not all(kind.format.plain for kind in kinds):
        return None
    count = sum([header.chunks for header in headers])
    rows = allocate(count, width, dtypes.pop())
    check_rows(rows, count, width)
    small = _copy(transaction, found, headers, rows)
    entries = iter(stored_entries(ReadTogether(small, rows), headers))
    return [None if head is None else next(entries) for head in heads]


def _headers(heads: Sequence[Buffer]) -> list[Header] | None:
    """The header of each entry; None if one has none."""
    try:
        headers = list(starmap(parse_header, map(FIRST.unpack_from, heads)))
    except struct.error:  # shorter than a header
        return None
    return headers if all(headers) else None  # type: ignore[return-value]


def _copy(
    transaction: Any,
    found: Sequence[tuple[bytes, Buffer]],
    headers: Sequence[Header],
    rows: Vectors,
) -> bytes:
    """Put all chunk embeddings into their rows; returns what stands before them, joined."""
    small = []
    target = memoryview(rows.data).cast("B") if rows.size else memoryview(bytearray())
    end = 0
    for (key, head), header in zip(found, headers, strict=True):
        cut, size = header.cut, len(head)
        if size != header.total:  # the aligned part is a record of its own and comes first
            body = transaction.get(key + BODY, b"")
            if size < cut or size + len(body) != header.total:
                raise damaged("a part of it is missing")
            start, end = end, end + len(body)
            target[start:end] = body
        start, end = end, end + size - cut
        target[start:end] = head[cut:]
        small.append(head[:cut])
    return b"".join(small)
