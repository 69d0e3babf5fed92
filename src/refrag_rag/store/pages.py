"""Which pages of an LMDB file are in use, by its own reading of the file.

LMDB trusts its file: following a reference to a page that is not there ends the process.
"""

import os
import struct
from collections.abc import Iterator

HEAD = struct.Struct("<QHHHH")  # page number, padding, flags, lower and upper end of free space
META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
TREE = struct.Struct("<IHHQQQQQ")  # padding or page size, flags, depth, four counts, root
NODE = struct.Struct("<HHHH")  # low and high half of a number, flags, bytes of the key
NUMBER = struct.Struct("<Q")
MAGIC = 0xBEEFC0DE
BRANCH, LEAF, BIG = 1, 2, 1
NO_PAGE = 2**64 - 1


def missing_page(file: int, page: int) -> int | None:
    """A page that is in use and lies beyond the end of the file, or damaged where it should be.

    Parameters
    ----------
    file
        Descriptor of a data file; a read transaction must be open, so that pages stay as they are.
    page
        Bytes of a page.

    Returns
    -------
    int or None
        Its number; None if all are there.
    """
    end = os.fstat(file).st_size // page
    waiting = list(_roots(file, page))
    while waiting:
        number = waiting.pop()
        data = os.pread(file, page, number * page) if number < end else b""
        if len(data) < page or not HEAD.unpack_from(data)[2] & (BRANCH | LEAF):
            return number
        for first, pages in _references(data, page):
            if first + (pages or 1) > end:
                return first
            if not pages:  # of the tree
                waiting.append(first)
    return None


def _roots(file: int, page: int) -> Iterator[int]:
    """Roots of the trees of free pages and of entries, as the newest of the two metas has them."""
    newest: tuple[int, list[int]] = (-1, [])
    for number in (0, 1):
        data = os.pread(file, page, number * page)
        if len(data) == page and META.unpack_from(data, HEAD.size)[0] == MAGIC:
            place = HEAD.size + META.size
            roots = [TREE.unpack_from(data, place + i * TREE.size)[-1] for i in (0, 1)]
            (transaction,) = NUMBER.unpack_from(data, place + 2 * TREE.size + NUMBER.size)
            newest = max(newest, (transaction, roots))
    return (root for root in newest[1] if root != NO_PAGE)


def _references(data: bytes, page: int) -> Iterator[tuple[int, int]]:
    """What a page of a tree refers to: first page, and how many of a value (0: of the tree)."""
    _, _, kind, lower, _ = HEAD.unpack_from(data)
    for (place,) in struct.iter_unpack("<H", data[HEAD.size : lower]):
        low, high, flags, key = NODE.unpack_from(data, place)
        if kind & BRANCH:
            yield low | high << 16 | flags << 32, 0
        elif flags & BIG:
            size = low | high << 16
            (first,) = NUMBER.unpack_from(data, place + NODE.size + key)
            yield first, (HEAD.size - 1 + size) // page + 1
