"""PassageEntry: what a store keeps of one passage, and its bytes."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from refrag_rag.errors import StoreError
from refrag_rag.store.formats import Vectors
from refrag_rag.store.layout import (
    Header,
    SmallArrays,
    check,
    damaged,
    format_for,
    pack,
    read_header,
    read_small,
    read_vectors,
)


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
        small = SmallArrays(self.token_ids, self.chunk_lengths, self.char_ends, dict(self.scores))
        return pack(self.embeddings, small, format_for(self.embeddings, format))

    @classmethod
    def from_bytes(cls, data: bytes) -> "PassageEntry":
        """Read what `to_bytes` wrote, now or in safetensors before; the arrays are copies.

        Raises
        ------
        StoreError
            If the bytes are damaged.
        """
        header = read_header(data)
        if header is None:
            return _from_safetensors(data)
        check(data, header)
        return cls(read_vectors(data, header), **read_small(data, header)._asdict())


@dataclass(frozen=True, eq=False)
class ReadTogether:
    """What entries that were read together share.

    Attributes
    ----------
    small
        Their headers and small arrays, one entry's behind the other's.
    rows
        *Shape:* (sum of L, D_enc); their chunk embeddings.
    headers
        One for each.
    """

    small: bytes
    rows: Vectors
    headers: Sequence[Header]

    @cached_property
    def starts(self) -> list[tuple[int, int]]:
        """First row and first small byte of each entry."""
        rows = accumulate([header.chunks for header in self.headers], initial=0)
        places = accumulate([header.cut for header in self.headers], initial=0)
        return list(zip(rows, places, strict=True))


class StoredEntry(PassageEntry):
    """An entry whose chunk embeddings are rows of an array that was given.

    All arrays are made when they are first asked for: most readers want few of them.
    """

    def __getattr__(self, name: str) -> Any:
        """Read what is asked for, with what is beside it."""
        if name not in PassageEntry.__dataclass_fields__:
            raise AttributeError(name)
        own = self.__dict__
        read, number = own["_part"]
        header, (row, place) = read.headers[number], read.starts[number]
        if name == "embeddings":
            own[name] = read.rows[row : row + header.chunks]
        else:
            own.update(read_small(read.small, header, place)._asdict())
        return own[name]


def stored_entries(read: ReadTogether) -> list[PassageEntry]:
    """Entries of what was read, one for each header."""
    new = object.__new__  # a call of our own for each would take most of the time
    made: list[PassageEntry] = []
    for number in range(len(read.headers)):
        entry = new(StoredEntry)
        entry.__dict__["_part"] = read, number
        made.append(entry)
    return made


def _from_safetensors(data: bytes) -> PassageEntry:
    try:
        arrays = load(data)
        scores = {
            name.removeprefix("score."): array
            for name, array in arrays.items()
            if name.startswith("score.")
        }
        names = ("embeddings", "token_ids", "chunk_lengths", "char_ends")
        return PassageEntry(**{name: arrays[name] for name in names}, scores=scores)
    except (SafetensorError, KeyError) as error:
        raise damaged(repr(error)) from error
