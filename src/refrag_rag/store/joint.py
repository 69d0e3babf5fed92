"""Entries of an LMDB database read together: what the time of a question hangs on.

Nothing is computed for a passage that can be done for all at once, and chunk embeddings are copied
once, from the memory map to their rows.
"""

from collections.abc import Sequence
from typing import Any

from refrag_rag.store.entry import PassageEntry, ReadTogether, StoredEntry
from refrag_rag.store.layout import UNCHECKED, Buffer, Header, damaged, parse_header
from refrag_rag.store.records import BODY
from refrag_rag.store.rows import Allocate, check_rows, check_widths

Found = tuple[list[Buffer | None], list[Buffer]]


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
    found = _find(transaction, keys)
    small = b"".join(filter(None, found[0]))
    headers = _headers(found, small)
    if headers is None:
        return None
    kinds = {id(header): header for header in headers if header}.values()  # cached: mostly few
    if not kinds:
        return [None] * len(keys)
    width = check_widths({kind.width for kind in kinds})
    dtypes = {kind.format.dtype for kind in kinds}
    if len(dtypes) > 1 or not all(kind.format.plain for kind in kinds):
        return None
    count = sum([header.chunks for header in headers if header])
    rows = allocate(count, width, dtypes.pop())
    check_rows(rows, count, width)
    return _copy(found, headers, ReadTogether(small, rows))


def _find(transaction: Any, keys: Sequence[bytes]) -> Found:
    """Both records of each entry: None and nothing where there is none."""
    heads: list[Buffer | None] = []
    bodies: list[Buffer] = []
    with transaction.cursor() as cursor:  # it finds the neighbour of where it stands sooner
        seek, value = cursor.set_key, cursor.value
        for key in keys:
            heads.append(value() if seek(key) else None)
            bodies.append(value() if seek(key + BODY) else b"")
    return heads, bodies


def _headers(found: Found, small: bytes) -> list[Header | None] | None:
    """The header of each entry, None if one has none; `small` is all heads behind one another."""
    headers: list[Header | None] = []
    place = 0
    for head, body in zip(*found, strict=True):
        if head is None:
            headers.append(None)
            continue
        header = parse_header(small[place : place + UNCHECKED])
        if header is None:
            return None
        size = len(head)
        if size < header.cut or size + len(body) != header.total:
            raise damaged("a part of it is missing")
        headers.append(header)
        place += size
    return headers


def _copy(
    found: Found, headers: Sequence[Header | None], read: ReadTogether
) -> list[PassageEntry | None]:
    """Put all chunk embeddings into their rows; of an entry the aligned part comes first."""
    entries: list[PassageEntry | None] = []
    target = memoryview(read.rows.data).cast("B") if read.rows.size else memoryview(b"")
    place = end = row = 0  # in `small`, in bytes of the rows, in rows
    for head, body, header in zip(*found, headers, strict=True):
        if head is None or header is None:
            entries.append(None)
            continue
        entries.append(StoredEntry.over(read, row, place, header))
        start, end = end, end + len(body)
        target[start:end] = body
        size = len(head)
        if size > header.cut:
            start, end = end, end + size - header.cut
            target[start:end] = read.small[place + header.cut : place + size]
        row += header.chunks
        place += size
    return entries
