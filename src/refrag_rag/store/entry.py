"""PassageEntry: what a store keeps of one passage, and its bytes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from refrag_rag.errors import StoreError


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

    def to_bytes(self) -> bytes:
        """Serialise as safetensors."""
        arrays: dict[str, NDArray[np.generic]] = {
            "embeddings": self.embeddings,
            "token_ids": self.token_ids,
            "chunk_lengths": self.chunk_lengths,
            "char_ends": self.char_ends,
            **{f"score.{name}": values for name, values in self.scores.items()},
        }
        return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})

    @classmethod
    def from_bytes(cls, data: bytes) -> "PassageEntry":
        """Read what `to_bytes` wrote; the arrays are copies.

        Raises
        ------
        StoreError
            If the bytes are damaged.
        """
        try:
            arrays = load(data)
            scores = {
                name.removeprefix("score."): array
                for name, array in arrays.items()
                if name.startswith("score.")
            }
            names = ("embeddings", "token_ids", "chunk_lengths", "char_ends")
            return cls(**{name: arrays[name] for name in names}, scores=scores)
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"A damaged entry ({error!r}). Delete it and index again.") from error
