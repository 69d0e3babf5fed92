"""PassageEntry: what a store keeps of one passage, and its bytes.

The bytes are little-endian: a header, three runs of int32, the scores' numbers and names, then the
chunk embeddings in some format. A damaged or foreign value is found by its magic and its checksum.
"""

import hashlib
import logging
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.formats import Buffer, Vectors, get_format

MAGIC = b"RfE3"  # the digit is the version of the layout
START = struct.Struct("<4sI")  # magic; CRC-32 of all that follows
SIZES = struct.Struct("<8s5I")  # format, chunks, width, tokens, scores, bytes of their names
HEADER = START.size + SIZES.size
logger = logging.getLogger(__name__)


def passage_key(text: str) -> str:
    """Content address of a passage: SHA-256 of its text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, eq=False)
class PassageEntry:
    """Chunk embeddings and token ids of one passage of L chunks and n tokens.

    Attributes
    ----------
    embeddings
        *Shape:* (L, D_enc), float16 or float32; before the projector.
    token_ids
        *Shape:* (n,), int32.
    chunk_lengths
        *Shape:* (L,), int32; tokens of each chunk, n together.
    char_ends
        *Shape:* (L,), int32; chunk i's text is ``text[char_ends[i - 1]:char_ends[i]]``.
    scores
        Named per-chunk scores that policies want, each *shape* (L,), float32.

    Raises
    ------
    StoreError
        If shapes or types do not fit together.
    """

    embeddings: Vectors
    token_ids: NDArray[np.int32]
    chunk_lengths: NDArray[np.int32]
    char_ends: NDArray[np.int32]
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check shapes and types."""
        chunks = len(self.chunk_lengths)
        fine = (
            self.embeddings.ndim == 2
            and self.embeddings.dtype in (np.float16, np.float32)
            and len(self.embeddings) == chunks == len(self.char_ends)
            and int(self.chunk_lengths.sum()) == len(self.token_ids)
            and all(scores.shape == (chunks,) for scores in self.scores.values())
        )
        if not fine:
            raise StoreError(
                f"An entry with embeddings {self.embeddings.shape} {self.embeddings.dtype}, "
                f"{len(self.token_ids)} token ids, {chunks} chunk lengths and "
                f"{len(self.char_ends)} ends; expected (L, D_enc) float16 or float32 and L of each."
            )

    def to_bytes(self, format: str | None = None) -> bytes:
        """Serialise.

        Parameters
        ----------
        format
            Name of the format for the chunk embeddings; by default the one of their dtype.

        Raises
        ------
        StoreError
            If a number is not finite or too large for the format.
        """
        check_finite(self.embeddings)
        form = get_format(format or ("fp16" if self.embeddings.dtype == np.float16 else "fp32"))
        names = "\0".join(self.scores).encode()
        sizes = (*self.embeddings.shape, len(self.token_ids), len(self.scores), len(names))
        integers = (self.token_ids, self.chunk_lengths, self.char_ends)
        body = b"".join(
            (
                SIZES.pack(form.name.encode(), *sizes),
                *(array.astype("<i4").tobytes() for array in integers),
                *(array.astype("<f4").tobytes() for array in self.scores.values()),
                names,
                form.encode(self.embeddings),
            )
        )
        return START.pack(MAGIC, zlib.crc32(body)) + body

    @classmethod
    def from_bytes(cls, data: Buffer) -> "PassageEntry":
        """Read what `to_bytes` wrote; the arrays are copies.

        Raises
        ------
        StoreError
            If the bytes are damaged.
        """
        name, chunks, width, tokens, count, spelled = read_sizes(data)
        view = memoryview(data)
        if zlib.crc32(view[START.size :]) != START.unpack_from(view)[1]:
            raise _damaged("its checksum differs")
        form = get_format(name)
        scores_at = HEADER + 4 * (tokens + 2 * chunks)
        names_at = scores_at + 4 * count * chunks
        try:
            integers = np.frombuffer(view, "<i4", tokens + 2 * chunks, HEADER).astype(np.int32)
            numbers = np.frombuffer(view, "<f4", count * chunks, scores_at).astype(np.float32)
            names = bytes(view[names_at : names_at + spelled]).decode().split("\0")
            vectors: Vectors = np.empty((chunks, width), form.dtype)
            form.decode(view[names_at + spelled :], vectors)
        except ValueError as error:
            raise _damaged(str(error)) from error
        return cls(
            vectors,
            token_ids=integers[:tokens].copy(),
            chunk_lengths=integers[tokens : tokens + chunks].copy(),
            char_ends=integers[tokens + chunks :].copy(),
            scores={
                name: scores.copy()
                for name, scores in zip(names, numbers.reshape(count, chunks), strict=False)
            },
        )


def read_sizes(data: Buffer) -> tuple[str, int, int, int, int, int]:
    """Format, L, D_enc, n, number of scores and bytes of their names, unchecked.

    Raises
    ------
    StoreError
        If the bytes do not begin as an entry.
    """
    if len(data) < HEADER or bytes(data[: len(MAGIC)]) != MAGIC:
        raise _damaged("it does not begin as one of this version")
    name, chunks, width, tokens, scores, names = SIZES.unpack_from(data, START.size)
    form = name.rstrip(b"\0").decode(errors="replace")
    return form, chunks, width, tokens, scores, names


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


def sound_entry(data: Buffer | None, address: str) -> PassageEntry | None:
    """Read an entry, where a damaged one counts as missing and is logged.

    So damage costs an encoding, and never gives a wrong vector.

    Parameters
    ----------
    data
        Bytes of an entry, or None if there is none.
    address
        What the log calls it.
    """
    if data is None:
        return None
    try:
        return PassageEntry.from_bytes(data)
    except StoreError as error:
        logger.warning("The entry %s counts as missing: %s", address, error)
        return None


def _damaged(reason: str) -> StoreError:
    return StoreError(f"A damaged entry ({reason}). Delete it and index again.")
