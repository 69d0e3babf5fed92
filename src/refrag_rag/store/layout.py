"""The bytes of an entry: a header, small arrays, then the chunk embeddings in some format.

Little-endian. Everything that a store moves about is these bytes, so a damaged or foreign value is
found by its magic, its sizes and its checksum.
"""

import struct
import zlib
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.formats import FORMATS, VectorFormat, Vectors

MAGIC = b"RfrE"  # safetensors, the older layout, has four zero bytes at 4:8 and never this
VERSION = 1
Buffer = bytes | memoryview
START = struct.Struct("<4s4B8s5I")
BY_NAME = {name.encode().ljust(8, b"\0"): format for name, format in FORMATS.items()}
CHECKSUM = struct.Struct("<I")
HEADER = struct.Struct(START.format + "I")
UNCHECKED = START.size
SCORE = struct.Struct("<H")
UNSIGNED: dict[int, "np.dtype[np.unsignedinteger[Any]]"] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
}


class Header(NamedTuple):
    """What the first bytes of an entry say.

    Attributes
    ----------
    id_bytes, length_bytes, end_bytes
        Bytes of one token id, one chunk length, one character end.
    small
        Bytes of everything between header and chunk embeddings.
    payload
        Bytes of the chunk embeddings.
    cut
        Where the chunk embeddings begin.
    total
        Bytes of the entry.
    """

    id_bytes: int
    length_bytes: int
    end_bytes: int
    format: VectorFormat
    chunks: int
    width: int
    tokens: int
    small: int
    payload: int
    cut: int
    total: int


class SmallArrays(NamedTuple):
    """All of an entry but its chunk embeddings; see `PassageEntry`."""

    token_ids: NDArray[np.int32]
    chunk_lengths: NDArray[np.int32]
    char_ends: NDArray[np.int32]
    scores: dict[str, NDArray[np.float32]]


Pieces = tuple[Header, Buffer, Buffer]
"""An entry as views of its bytes, which may lie at two places: its header; everything up to the
chunk embeddings, and the end of these; the chunk embeddings up to there."""


def joined(pieces: Pieces) -> bytes:
    """Bytes of an entry, as a copy."""
    header, head, body = pieces
    return b"".join((head[: header.cut], body, head[header.cut :]))


def damaged(reason: str) -> StoreError:
    """Error for bytes that are no entry."""
    return StoreError(f"A damaged entry ({reason}). Delete it and index again.")


def pack(embeddings: Vectors, small: SmallArrays, format: VectorFormat) -> bytes:
    """Serialise an entry.

    Raises
    ------
    StoreError
        If a number is not finite or too large for the format.
    """
    if not np.isfinite(embeddings).all():
        raise StoreError(
            "Chunk embeddings with NaN or infinity cannot be kept; expected finite numbers. "
            "Check the encoder's weights and dtype."
        )
    numbers = [_narrow(array) for array in small[:3]]
    parts = [array.tobytes() for array in numbers]
    for name, values in small.scores.items():
        spelled = name.encode()
        parts += [SCORE.pack(len(spelled)), spelled, values.astype("<f4").tobytes()]
    middle, payload = b"".join(parts), format.encode(embeddings)
    chunks, width = embeddings.shape
    widths = [array.itemsize for array in numbers]
    sizes = (chunks, width, len(small.token_ids), len(middle), len(payload))
    start = START.pack(MAGIC, VERSION, *widths, format.name.encode(), *sizes)
    checksum = _checksum(start, middle, payload)
    return start + CHECKSUM.pack(checksum) + middle + payload


def read_header(data: Buffer) -> Header | None:
    """Read the first bytes of a value: a header, or None if it does not claim to be an entry.

    Raises
    ------
    StoreError
        If it claims to be one, but is not a header that fits together.
    """
    header = parse_header(bytes(data[:UNCHECKED]))
    if header and len(data) < HEADER.size:
        raise damaged(f"{len(data)} bytes, shorter than a header")
    return header


@lru_cache(maxsize=4096)  # entries of the same sizes have the same bytes here
def parse_header(start: bytes) -> Header | None:
    """Read the `UNCHECKED` bytes with which a value begins, as `read_header` does.

    Raises
    ------
    StoreError
        If they claim to be a header, but do not fit together.
    """
    if not start.startswith(MAGIC):
        return None
    if len(start) < UNCHECKED:
        raise damaged(f"{len(start)} bytes, shorter than a header")
    _, version, ids, lengths, ends, name, chunks, width, tokens, small, payload = START.unpack(
        start
    )
    if version != VERSION:
        raise StoreError(
            f"An entry in layout {version}; this version reads {VERSION}. Install a newer one."
        )
    format = BY_NAME.get(name)
    if format is None:
        raise StoreError(f"An entry in format {name!r}; expected one of {', '.join(FORMATS)}.")
    fine = ids in UNSIGNED and lengths in UNSIGNED and ends in UNSIGNED
    enough = tokens * ids + chunks * (lengths + ends) <= small
    if not (fine and enough and payload == format.size(chunks, width)):
        raise damaged("sizes that do not fit together")
    cut = HEADER.size + small
    return Header(
        ids, lengths, ends, format, chunks, width, tokens, small, payload, cut, cut + payload
    )


def check(data: Buffer, header: Header) -> None:
    """Compare length and checksum of a whole entry.

    Raises
    ------
    StoreError
        If they differ.
    """
    if len(data) != header.total:
        raise damaged(f"{len(data)} bytes, {header.total} expected")
    (expected,) = CHECKSUM.unpack_from(data, UNCHECKED)
    if _checksum(data[:UNCHECKED], data[HEADER.size :]) != expected:
        raise damaged("its checksum differs")


def read_small(data: Buffer, header: Header, start: int = 0) -> SmallArrays:
    """Read all but the chunk embeddings of the entry that begins at `start`, as copies.

    Raises
    ------
    StoreError
        If the scores do not fit.
    """
    place, end = start + HEADER.size, start + header.cut
    arrays: list[NDArray[np.int32]] = []
    for width, count in (
        (header.id_bytes, header.tokens),
        (header.length_bytes, header.chunks),
        (header.end_bytes, header.chunks),
    ):
        arrays.append(np.frombuffer(data, UNSIGNED[width], count, place).astype(np.int32))
        place += width * count
    scores = {}
    try:
        while place < end:
            (length,) = SCORE.unpack_from(data, place)
            place += SCORE.size
            name = bytes(data[place : place + length]).decode()
            values = np.frombuffer(data, "<f4", header.chunks, place + length)
            scores[name] = values.astype(np.float32)
            place += length + values.nbytes
    except (struct.error, ValueError) as error:
        raise damaged(f"scores that do not fit: {error}") from error
    token_ids, chunk_lengths, char_ends = arrays
    return SmallArrays(token_ids, chunk_lengths, char_ends, scores)


def read_vectors(data: Buffer, header: Header) -> Vectors:
    """Chunk embeddings of a whole entry, in the format's own dtype, as a copy.

    Returns
    -------
    numpy.ndarray
        *Shape:* (L, D_enc).
    """
    out: Vectors = np.empty((header.chunks, header.width), header.format.dtype)
    header.format.decode(data[header.cut :], out)
    return out


def format_for(embeddings: Vectors, name: str | None) -> VectorFormat:
    """Look up the named format, or take the one that keeps the array as it is."""
    if name is not None:
        return FORMATS[name]
    return FORMATS["fp16" if embeddings.dtype == np.float16 else "fp32"]


def _narrow(array: NDArray[np.int32]) -> NDArray[Any]:
    """Narrowest unsigned numbers that hold an array; every saved byte is one of a page."""
    largest = int(array.max()) if len(array) else 0
    if len(array) and array.min() < 0:
        raise StoreError(f"An entry with the number {array.min()}; expected none below zero.")
    width = next(one for one in UNSIGNED if largest < 1 << 8 * one)
    return array.astype(UNSIGNED[width])


def _checksum(*parts: Buffer) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum
