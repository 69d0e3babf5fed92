"""The bytes of an entry: a header, small arrays, then the chunk embeddings in some format.

Little-endian. Everything that a store moves about is these bytes, so a damaged or foreign value is
found by its magic, its sizes and its checksum.
"""

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.formats import FORMATS, VectorFormat, Vectors

MAGIC = b"RfrE"
VERSION = 2
Buffer = bytes | memoryview
# magic; version, bytes of an id, of a length, of an end; format; the sizes of `Header`
START = struct.Struct("<4s4B8s5I")
CHECKSUM = struct.Struct("<I")
HEADER = START.size + CHECKSUM.size
SCORE = struct.Struct("<H")
BY_NAME = {name.encode().ljust(8, b"\0"): format for name, format in FORMATS.items()}
UNSIGNED: dict[int, "np.dtype[np.unsignedinteger[Any]]"] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
}


class Header(NamedTuple):
    """What the first bytes of an entry say.

    Attributes
    ----------
    widths
        Bytes of one token id, one chunk length, one character end.
    format
        Of the chunk embeddings.
    chunks, width, tokens
        L, D_enc, and the number of token ids.
    small, payload
        Bytes between header and chunk embeddings, and of the chunk embeddings.
    """

    widths: tuple[int, int, int]
    format: VectorFormat
    chunks: int
    width: int
    tokens: int
    small: int
    payload: int

    @property
    def total(self) -> int:
        """Bytes of the entry."""
        return HEADER + self.small + self.payload


class SmallArrays(NamedTuple):
    """All of an entry but its chunk embeddings; see `PassageEntry`."""

    token_ids: NDArray[np.int32]
    chunk_lengths: NDArray[np.int32]
    char_ends: NDArray[np.int32]
    scores: dict[str, NDArray[np.float32]]


def damaged(reason: str) -> StoreError:
    """Error for bytes that are no entry."""
    return StoreError(f"A damaged entry ({reason}). Delete it and index again.")


def check_finite(embeddings: Vectors) -> None:
    """Refuse what no decoder can read.

    Raises
    ------
    StoreError
        If a number is not finite.
    """
    if not np.isfinite(embeddings).all():
        raise StoreError(
            "Chunk embeddings with NaN or infinity cannot be kept; expected finite numbers. "
            "Check the encoder's weights and dtype; float16 ends at 65,504."
        )


def pack(embeddings: Vectors, small: SmallArrays, format: VectorFormat) -> bytes:
    """Serialise an entry.

    Raises
    ------
    StoreError
        If a number is not finite or too large for the format.
    """
    check_finite(embeddings)
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


def unpack(data: Buffer) -> tuple[Vectors, SmallArrays]:
    """Read what `pack` wrote, as copies.

    Returns
    -------
    tuple
        Chunk embeddings, *shape* (L, D_enc) in the format's own dtype, and the small arrays.

    Raises
    ------
    StoreError
        If anything of it is damaged.
    """
    view = memoryview(data)
    header = read_header(view)
    if len(view) != header.total:
        raise damaged(f"{len(view)} bytes, {header.total} expected")
    (expected,) = CHECKSUM.unpack_from(view, START.size)
    if _checksum(view[: START.size], view[HEADER:]) != expected:
        raise damaged("its checksum differs")
    vectors: Vectors = np.empty((header.chunks, header.width), header.format.dtype)
    header.format.decode(view[HEADER + header.small :], vectors)
    return vectors, _small_arrays(view, header)


def read_header(data: Buffer) -> Header:
    """Read the first bytes of a value.

    Raises
    ------
    StoreError
        If they are no header, or its numbers do not fit together.
    """
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise damaged("it does not begin as one")
    if len(data) < HEADER:
        raise damaged(f"{len(data)} bytes, shorter than a header")
    fields = START.unpack_from(data)
    version, widths, name, sizes = fields[1], fields[2:5], fields[5], fields[6:]
    if version != VERSION:
        raise StoreError(
            f"An entry in layout {version}; this version reads {VERSION}. Index again, or install "
            "the version that wrote it."
        )
    if name not in BY_NAME:
        raise StoreError(f"An entry in format {name!r}; expected one of {', '.join(FORMATS)}.")
    header = Header(widths, BY_NAME[name], *sizes)
    ids, lengths, ends = widths
    if not UNSIGNED.keys() >= set(widths) or (
        header.tokens * ids + header.chunks * (lengths + ends) > header.small
        or header.payload != header.format.size(header.chunks, header.width)
    ):
        raise damaged("sizes that do not fit together")
    return header


def _small_arrays(data: memoryview, header: Header) -> SmallArrays:
    place, end = HEADER, HEADER + header.small
    arrays: list[NDArray[np.int32]] = []
    for width, count in zip(
        header.widths, (header.tokens, header.chunks, header.chunks), strict=True
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


def _narrow(array: NDArray[np.int32]) -> NDArray[Any]:
    """Narrowest unsigned numbers that hold an array."""
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
