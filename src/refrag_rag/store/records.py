"""Records of an LMDB database: entries cut so that they fill its pages, and plain bytes.

LMDB puts a value of more than half a page onto pages of its own, the first with a header of 16
bytes: 12,288 bytes of vectors take four pages, not three. So the end of the chunk embeddings may
stand with the small arrays among the keys, under the passage's key, and the rest, which then fills
its pages, under the same key with a zero byte behind it. That makes two searches of every read, so
it is done only where it saves enough room.
"""

from collections.abc import Iterator
from typing import Any

import lmdb

from refrag_rag.errors import StoreError
from refrag_rag.store.entry import PassageEntry
from refrag_rag.store.environment import DATA, Environment
from refrag_rag.store.layout import Buffer, Pieces, damaged, joined, read_header
from refrag_rag.store.plain import is_plain, unwrap_plain

BODY = b"\0"
OVERFLOW_HEADER = 16
NODE_HEADER = 8 + 2
SAVED = 1 / 8  # of the room of one record, at least, for a second one
LEAF_FILL = 0.69  # of a B+ tree whose keys come in random order (Yao 1978)


def put(transaction: Any, key: bytes, data: bytes, page: int) -> None:
    """Write a value, replacing all of an older one."""
    head, body = _divide(data, len(key), page)
    transaction.put(key, head)
    if body:
        transaction.put(key + BODY, body)
    else:
        transaction.delete(key + BODY)


def get(transaction: Any, key: bytes) -> bytes | None:
    """Read a whole value, as a copy.

    Raises
    ------
    StoreError
        If a part of it is missing.
    """
    head = transaction.get(key)
    return None if head is None else whole(pieces(transaction, key, head))


def find(transaction: Any, key: bytes) -> Pieces | PassageEntry | None:
    """Find an entry, as views; one in the older layout is read whole.

    Raises
    ------
    StoreError
        If it is damaged, or a part of it is missing.
    """
    head = transaction.get(key)
    if head is None:
        return None
    found = pieces(transaction, key, head)
    return found if isinstance(found, tuple) else PassageEntry.from_bytes(bytes(found))


def pieces(transaction: Any, key: bytes, head: Buffer) -> Pieces | Buffer:
    """Find both parts of an entry; a value that is none in this layout is given back.

    Raises
    ------
    StoreError
        If the second part is missing.
    """
    header = read_header(head)
    if header is None:
        return head
    if len(head) >= header.total:
        return header, head, b""
    body = transaction.get(key + BODY)
    if body is None or len(head) + len(body) != header.total:
        raise damaged("a part of it is missing")
    return header, head, body


def whole(value: Pieces | Buffer) -> bytes:
    """Bytes of a value, as a copy."""
    return joined(value) if isinstance(value, tuple) else bytes(value)


def delete(transaction: Any, key: bytes) -> bool:
    """Delete a value; whether there was one."""
    transaction.delete(key + BODY)
    return bool(transaction.delete(key))


def heads(transaction: Any, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, Buffer]]:
    """Keys that begin with `prefix`, sorted, with the first part of their values.

    Parameters
    ----------
    after
        Begin behind this key.
    """
    with transaction.cursor() as cursor:
        more = cursor.set_range(after + BODY + BODY if after else prefix)
        while more:
            key = bytes(cursor.key())
            if not key.startswith(prefix):
                return
            if not key.endswith(BODY):
                yield key, cursor.value()
            more = cursor.next()


def _divide(data: bytes, key: int, page: int) -> tuple[bytes, bytes]:
    """What stands among the keys, and what on pages of its own."""
    header = read_header(data)
    if header is None:
        return data, b""
    cut = header.cut
    payload = len(data) - cut
    filling = (payload + OVERFLOW_HEADER) // page * page - OVERFLOW_HEADER

    def room(body: int) -> float:
        return _room(len(data) - body, key, page) + _room(body, key, page)

    body = min(payload, max(0, filling), key=room)
    if room(body) > (1 - SAVED) * room(0):
        return data, b""
    return data[:cut] + data[cut + body :], data[cut : cut + body]


def _room(size: int, key: int, page: int) -> float:
    """Bytes of the file that a value takes, its key too."""
    if not size:
        return 0
    if NODE_HEADER + key + size <= (page - OVERFLOW_HEADER) // 2:
        return (NODE_HEADER + key + size) / LEAF_FILL
    pages = -(-(size + OVERFLOW_HEADER) // page)
    return (NODE_HEADER + key + 8) / LEAF_FILL + pages * page


def refuse_truncated(environment: Environment) -> None:
    """Check a file that is shorter than its pages: entries may be gone, or only unused pages.

    Raises
    ------
    StoreError
        If entries are gone.
    """
    missing = environment.shortfall()
    if not missing:
        return
    reason = ""
    if environment.read_only:
        reason = "it is open for reading only, so it cannot be checked. Open it once for writing"
    else:
        before = (environment.path / DATA).stat().st_size
        environment.lengthen()  # a read beyond the end would kill the process
        reason = _first_damage(environment)
        if reason:
            environment.lengthen(before)
    if reason:
        environment.close()
        raise StoreError(
            f"{environment.path} is truncated: {missing} bytes are missing and {reason}. Restore "
            "it from a copy, or delete it and index again."
        )


def _first_damage(environment: Environment) -> str:
    try:
        with environment.transaction(buffers=True) as transaction:
            for key, head in heads(transaction, b""):
                check_value(transaction, key, head)
    except (StoreError, lmdb.Error) as error:
        return f"not all entries are there ({error})"
    return ""


def check_value(transaction: Any, key: bytes, head: Buffer) -> None:
    """Read a whole value and compare its checksum.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    if is_plain(head):
        unwrap_plain(bytes(head))
    else:
        PassageEntry.from_bytes(whole(pieces(transaction, key, head)))
