"""How the decoder reads one span: chunk by chunk as a vector or as text. No vectors in here."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class SpanReading:
    """One span of a prompt that was laid out.

    Attributes
    ----------
    text
        The passage, as it stands in the span.
    char_ends
        *Shape:* (L,), integer; chunk i is ``text[char_ends[i - 1]:char_ends[i]]``.
    expanded
        *Shape:* (L,), bool; the chunks that are read as text.
    hit
        Whether the store had the passage.
    retrieval
        The retrieval score, where the marker carries one.
    scores
        *Shape:* (L,); what the policy ranked the chunks by (NaN: never chosen), if it ranks.
    """

    text: str
    char_ends: NDArray[np.int32]
    expanded: NDArray[np.bool_]
    hit: bool
    retrieval: float | None = None
    scores: NDArray[Any] | None = None

    def __len__(self) -> int:
        """Number of chunks, L."""
        return len(self.char_ends)

    def places(self) -> list[tuple[int, int]]:
        """Start and end of every chunk, in characters of the text."""
        return list(itertools.pairwise([0, *self.char_ends.tolist()]))

    def texts(self) -> list[str]:
        """The L chunk texts."""
        return [self.text[start:end] for start, end in self.places()]
