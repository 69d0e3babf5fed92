"""Entries of an LMDB database read together: what the time of a question hangs on.

Nothing is computed for a passage that can be done for all at once, and chunk embeddings are copied
once, from the memory map to their rows.
"""

from collections.abc import Sequence
from typing import Any

from refrag_rag.store.entry import PassageEntry, ReadTogether, StoredEntry
from refrag_rag.store.layout import UNCHECKED, Pieces, damaged, parse_header
from refrag_rag.store.records import BODY
from refrag_rag.store.rows import Allocate, check_rows, check_widths


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
    if found is None:
        return None
    present = [pieces for pieces in found if pieces]
    kinds = {id(header): header for header, _, _ in present}.values()  # cached: mostly few
    if not kinds:
        return [None] * len(keys)
    width = check_widths({kind.width for kind in kinds})
    dtypes = {kind.format.dtype for kind in kinds}
    if len(dtypes) > 1 or not all(kind.format.plain for kind in kinds):
        return None
    count = sum([header.chunks for header, _, _ in present])
    rows = allocate(count, width, dtypes.pop())
    check_rows(rows, count, width)
    small = b"".join([head[: header.cut] for header, head, _ in present])
    return _copy(found, ReadTogether(small, rows))


def _find(transaction: Any, keys: Sequence[bytes]) -> list[Pieces | None] | None:
    """Each entry as it lies in the file, None where there is none; None if one has no header."""
    found: list[Pieces | None] = []
    with transaction.cursor() as cursor:  # it finds the neighbour of where it stands sooner
        seek, value = cursor.set_key, cursor.value
        for key in keys:
            if not seek(key):
                found.append(None)
                continue
            head, body = value(), b""
            header = parse_header(bytes(head[:UNCHECKED]))
            if header is None:
                return None
            size = len(head)
            if size != header.total:
                body = value() if seek(key + BODY) else b""
                if size < header.cut or size + len(body) != header.total:
                    raise damaged("a part of it is missing")
            found.append((header, head, body))
    return found


def _copy(found: Sequence[Pieces | None], read: ReadTogether) -> list[PassageEntry | None]:
    """Put all chunk embeddings into their rows; of an entry the aligned part comes first."""
    entries: list[PassageEntry | None] = []
    target = memoryview(read.rows.data).cast("B") if read.rows.size else memoryview(b"")
    place = end = row = 0  # in `small`, in bytes of the rows, in rows
    for pieces in found:
        if pieces is None:
            entries.append(None)
            continue
        header, head, body = pieces
        entries.append(StoredEntry.over(read, row, place, header))
        if body:
            start, end = end, end + len(body)
            target[start:end] = body
        start, end = end, end + len(head) - header.cut
        target[start:end] = head[header.cut :]
        row += header.chunks
        place += header.cut
    return entries
