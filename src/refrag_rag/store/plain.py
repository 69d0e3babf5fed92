"""Values that are not entries: bytes of anybody's, with a checksum, in namespaces of their own."""

import struct
import zlib

from refrag_rag.store.layout import Buffer, damaged

PLAIN = "bytes."
"""What the namespaces of such values begin with; collecting garbage leaves them alone."""

START = struct.Struct("<4sI")
MAGIC = b"RfrB"


def is_plain(data: Buffer) -> bool:
    """Whether the bytes claim to be such a value."""
    return bytes(data[: len(MAGIC)]) == MAGIC


def wrap_plain(data: bytes) -> bytes:
    """Put magic and checksum in front."""
    return START.pack(MAGIC, zlib.crc32(data)) + data


def unwrap_plain(data: bytes) -> bytes:
    """Take off what `wrap_plain` put in front.

    Raises
    ------
    StoreError
        If the bytes are damaged.
    """
    rest = data[START.size :]
    if len(data) < START.size or START.unpack_from(data) != (MAGIC, zlib.crc32(rest)):
        raise damaged("its checksum differs")
    return rest
