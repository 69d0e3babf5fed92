"""Entries of an LMDB database read together: what the time of a question hangs on.

Nothing is computed for a passage that can be done for all at once, loops that need no Python run
without it, and chunk embeddings are copied once, from the memory map to their rows.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from refrag_rag.store.entry import PassageEntry, ReadTogether, stored_entries
from refrag_rag.store.formats import Vectors
from refrag_rag.store.layout import UNCHECKED, Buffer, Header, damaged, parse_header
from refrag_rag.store.records import BODY
from refrag_rag.store.rows import Allocate, check_rows, check_widths

FIRST = struct.Struct(f"{UNCHECKED}s")


def read_together(
    transaction: Any, keys: Sequence[bytes], allocate: Allocate
) -> Sequence[PassageEntry | None] | None:
    """Read entries whose chunk embeddings are kept as they are read, in one dtype.

    Parameters
    ----------
    transaction
        Its values are views.
    allocate
        See `LMDBStore.read_into`.

    Returns
    -------
    sequence or None
        None if there is an entry of another kind, which `fill` reads.

    Raises
    ------
    StoreError
        If an entry is damaged, or if the entries have different widths.
    """
    heads = list(map(transaction.get, keys))
    if not all(heads):  # an empty value is no entry, and counts as missing
        there = [key for key, head in zip(keys, heads, strict=True) if head]
        read = read_together(transaction, there, allocate)
        if read is None:
            return None
        entries = iter(read)
        return [next(entries) if head else None for head in heads]
    if not heads:
        return []
    found = _headers(heads)
    if found is None:
        return None
    headers, kinds = found
    width = check_widths({kind.width for kind in kinds})
    dtypes = {kind.format.dtype for kind in kinds}
    if len(dtypes) > 1 or not all(kind.format.plain for kind in kinds):
        return None
    count = sum([header.chunks for header in headers])
    rows = allocate(count, width, dtypes.pop())
    check_rows(rows, count, width)
    small = _copy(transaction, zip(keys, heads, headers, strict=True), rows)
    return stored_entries(ReadTogether(small, rows, headers))


def _headers(heads: Sequence[Buffer]) -> tuple[list[Header], list[Header]] | None:
    """The header of each entry, and the distinct ones, mostly few; None if an entry has none."""
    try:
        starts = [start for (start,) in map(FIRST.unpack_from, heads)]
    except struct.error:  # shorter than a header
        return None
    kinds = set(starts)
    parsed = {start: header for start in kinds if (header := parse_header(start))}
    if len(parsed) < len(kinds):
        return None
    return [parsed[start] for start in starts], list(parsed.values())


def _copy(transaction: Any, found: Iterable[tuple[bytes, Buffer, Header]], rows: Vectors) -> bytes:
    """Put all chunk embeddings into their rows; returns what stands before them, joined."""
    small = []
    target = memoryview(rows.data).cast("B") if rows.size else memoryview(bytearray())
    end = 0
    for key, head, header in found:
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
