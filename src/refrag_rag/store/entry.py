"""PassageEntry: what a store keeps of one passage, and its bytes."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.formats import get_format
from refrag_rag.store.layout import Buffer, SmallArrays, pack, unpack

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

    embeddings: NDArray[np.float16] | NDArray[np.float32]
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
        name = format or ("fp16" if self.embeddings.dtype == np.float16 else "fp32")
        small = SmallArrays(self.token_ids, self.chunk_lengths, self.char_ends, dict(self.scores))
        return pack(self.embeddings, small, get_format(name))

    @classmethod
    def from_bytes(cls, data: Buffer) -> "PassageEntry":
        """Read what `to_bytes` wrote; the arrays are copies.

        Raises
        ------
        StoreError
            If the bytes are damaged.
        """
        embeddings, small = unpack(data)
        return cls(embeddings, **small._asdict())


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
