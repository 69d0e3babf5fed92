"""CompressedPrompt: what the decoder will read, in order, as text and as vectors."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

VECTOR = -1  # in place of a token id
TextRole = Literal["prompt", "expanded", "boundary"]


@dataclass(frozen=True)
class TextSegment:
    """Tokens that the decoder reads as tokens.

    Attributes
    ----------
    token_ids
        In the decoder's vocabulary.
    source
        The same as text, for people; or what makes it when somebody asks.
    role
        ``prompt``: outside spans. ``expanded``: chunks of a span. ``boundary``: tokens that a
        checkpoint wants around a run of vectors.
    """

    token_ids: tuple[int, ...]
    source: str | Callable[[], str]
    role: TextRole = "prompt"

    def __len__(self) -> int:
        """Decoder positions."""
        return len(self.token_ids)

    @cached_property
    def text(self) -> str:
        """The tokens as text."""
        return self.source if isinstance(self.source, str) else self.source()

    @property
    def plain_positions(self) -> int:
        """Positions in a prompt without vectors."""
        return 0 if self.role == "boundary" else len(self.token_ids)


@dataclass(frozen=True, eq=False)
class VectorSegment:
    """A run of chunks that the decoder reads as one vector each.

    Attributes
    ----------
    embeddings
        *Shape:* (V, D_enc), before the projector.
    texts
        The V chunks as text, for people.
    plain
        Positions that these chunks would take as text; or what counts them, where that takes a
        tokenizer.
    """

    embeddings: NDArray[np.floating]
    texts: Sequence[str]
    plain: int | Callable[[], int]

    def __len__(self) -> int:
        """Decoder positions, V."""
        return len(self.texts)

    @cached_property
    def plain_positions(self) -> int:
        """Positions that these chunks would take as text."""
        return self.plain if isinstance(self.plain, int) else self.plain()


Segment = TextSegment | VectorSegment


@dataclass(frozen=True, eq=False)
class SpanLayout:
    """How the decoder reads one span: chunk by chunk as a vector or as text. No vectors in here.

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
    metadata
        Characters at the beginning of `text` that are metadata.
    """

    text: str
    char_ends: NDArray[np.int32]
    expanded: NDArray[np.bool_]
    hit: bool
    retrieval: float | None = None
    scores: NDArray[Any] | None = None
    metadata: int = 0

    def __len__(self) -> int:
        """Number of chunks, L."""
        return len(self.char_ends)

    @property
    def metadata_chunks(self) -> int:
        """Chunks that begin in the metadata."""
        return sum(start < self.metadata for start, _ in self.places()) if self.metadata else 0

    def places(self) -> list[tuple[int, int]]:
        """Start and end of every chunk, in characters of the text."""
        return list(itertools.pairwise([0, *self.char_ends.tolist()]))

    def texts(self) -> list[str]:
        """The L chunk texts."""
        return [self.text[start:end] for start, end in self.places()]


@dataclass(frozen=True, eq=False)
class CompressedPrompt:
    """An ordered mix of text and vectors. Printing it shows what the decoder will see.

    Attributes
    ----------
    segments
        In reading order.
    layouts
        How each span is read, in order.
    question
        What the policy was asked.
    """

    segments: tuple[Segment, ...]
    layouts: tuple[SpanLayout, ...] = ()
    question: str = ""

    @property
    def spans(self) -> int:
        """Spans in the prompt."""
        return len(self.layouts)

    @cached_property
    def chunks(self) -> int:
        """Chunks of all spans."""
        return sum(map(len, self.layouts))

    @cached_property
    def expanded(self) -> int:
        """Chunks that are read as text."""
        return sum(int(layout.expanded.sum()) for layout in self.layouts)

    @property
    def cache_hits(self) -> int:
        """Spans whose chunk embeddings the store had."""
        return sum(layout.hit for layout in self.layouts)

    @cached_property
    def positions(self) -> int:
        """Decoder positions that the prompt takes, T."""
        return sum(map(len, self.segments))

    @cached_property
    def plain_positions(self) -> int:
        """Positions it would take with every chunk as text."""
        return sum(segment.plain_positions for segment in self.segments)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """Token ids, *shape* (T,); `VECTOR` where a vector stands."""
        parts = [
            np.array(segment.token_ids, np.int64)
            if isinstance(segment, TextSegment)
            else np.full(len(segment), VECTOR, np.int64)
            for segment in self.segments
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def embeddings(self) -> list[NDArray[np.floating]]:
        """The chunk embeddings in reading order, one (V, D_enc) array a run."""
        return [s.embeddings for s in self.segments if isinstance(s, VectorSegment)]

    def _repr_html_(self) -> str:
        """For Jupyter."""
        from refrag_rag.inspection import fragment, inspect

        return fragment(inspect(self))

    def __str__(self) -> str:
        """Render for people: text as it is, each vector as ``<chunk text>``."""
        share = self.positions / max(1, self.plain_positions)
        head = (
            f"{self.positions} positions instead of {self.plain_positions} ({share:.0%}); "
            f"{self.chunks} chunks, {self.expanded} as text\n"
        )
        return head + "".join(_lines(self.segments))


def _lines(segments: Sequence[Segment]) -> Iterator[str]:
    for segment in segments:
        if isinstance(segment, TextSegment):
            yield f"{{{segment.text}}}" if segment.role == "expanded" else segment.text
        else:
            yield "".join(f"<{text}>" for text in segment.texts)
