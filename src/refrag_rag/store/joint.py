"""Entries of an LMDB database read together: what the time of a question hangs on.

Nothing is computed for a passage that can be done for all at once, and chunk embeddings are copied
once, from the memory map to their rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refrag_rag.store.entry import Block, PassageEntry, StoredEntry
from refrag_rag.store.layout import UNCHECKED, Buffer, Header, damaged, parse_header
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
    get, over = transaction.get, StoredEntry.over
    heads = [get(key) for key in keys]
    small = b"".join(filter(None, heads))
    block = Block(small)
    headers: list[Header] = []
    entries: list[PassageEntry | None] = []
    parts: list[Buffer] = []
    last = None
    place = rows = 0
    for key, head in zip(keys, heads, strict=True):
        if head is None:
            entries.append(None)
            continue
        size = len(head)
        header = parse_header(small[place : place + UNCHECKED])
        if header is None:
            return None
        if header is not last:  # entries of the same sizes share theirs
            headers.append(header)
            last = header
        if size < header.total:
            body = get(key + BODY)
            if body is None or size < header.cut or size + len(body) != header.total:
                raise damaged("a part of it is missing")
            parts.append(body)
        if size > header.cut:
            parts.append(head[header.cut : header.total])
        entries.append(over(block, rows, place, header))
        rows += header.chunks
        place += size
    if not headers:
        return entries
    width = check_widths({header.width for header in headers})
    dtypes = {header.format.dtype for header in headers}
    if len(dtypes) > 1 or not all(header.format.plain for header in headers):
        return None
    block.rows = allocate(rows, width, dtypes.pop())
    check_rows(block.rows, rows, width)
    _copy(parts, block.rows)
    return entries


def _copy(parts: Sequence[Buffer], rows: "np.ndarray[Any, Any]") -> None:
    """Put parts one behind the other; of a passage the aligned one comes first."""
    target = memoryview(rows.data).cast("B") if rows.size else memoryview(b"")
    place = 0
    for part in parts:
        end = place + len(part)
        target[place:end] = part
        place = end
