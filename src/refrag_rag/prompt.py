"""CompressedPrompt: what the decoder will read, in order, as text and as vectors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refrag_rag.inspection import Inspection, fragment
from refrag_rag.readings import SpanReading

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

    @cached_property
    def text(self) -> str:
        """The tokens as text."""
        return self.source if isinstance(self.source, str) else self.source()


@dataclass(frozen=True, eq=False)
class VectorSegment:
    """A run of chunks that the decoder reads as one vector each.

    Attributes
    ----------
    embeddings
        *Shape:* (V, D_enc), before the projector.
    texts
        The V chunks as text, for people; cut when somebody reads them.
    plain
        Positions that these chunks would take as text; or what counts them, where that takes a
        tokenizer.
    """

    embeddings: NDArray[np.floating]
    texts: Sequence[str]
    plain: int | Callable[[], int]

    @cached_property
    def plain_positions(self) -> int:
        """Positions that these chunks would take as text."""
        return self.plain if isinstance(self.plain, int) else self.plain()


Segment = TextSegment | VectorSegment


@dataclass(frozen=True, eq=False)
class CompressedPrompt:
    """An ordered mix of text and vectors. Printing it shows what the decoder will see.

    Attributes
    ----------
    segments
        In reading order.
    spans, chunks, expanded, cache_hits, cache_misses, metadata_chunks
        Counts: spans in the prompt, their chunks, those handed over as text, passages found or
        not found in the store, and chunks that begin in a passage's metadata.
    question
        What the policy was asked.
    readings
        How each span is read, in order.
    """

    segments: tuple[Segment, ...]
    spans: int = 0
    chunks: int = 0
    expanded: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    metadata_chunks: int = 0
    question: str = ""
    readings: tuple[SpanReading, ...] = ()

    @cached_property
    def positions(self) -> int:
        """Decoder positions that the prompt takes, T."""
        return sum(_positions(segment) for segment in self.segments)

    @cached_property
    def plain_positions(self) -> int:
        """Positions it would take with every chunk as text."""
        return sum(
            segment.plain_positions
            if isinstance(segment, VectorSegment)
            else 0
            if segment.role == "boundary"
            else len(segment.token_ids)
            for segment in self.segments
        )

    def token_ids(self, placeholder: int = 0) -> list[int]:
        """One id a position, `placeholder` where a vector stands; T of them."""
        ids: list[int] = []
        for segment in self.segments:
            if isinstance(segment, TextSegment):
                ids += segment.token_ids
            else:
                ids += [placeholder] * len(segment.texts)
        return ids

    def text_ids(self) -> list[int]:
        """The token ids that stand in the prompt, without the vectors."""
        return [i for s in self.segments if isinstance(s, TextSegment) for i in s.token_ids]

    def id_array(self, placeholder: int = 0) -> NDArray[np.int64]:
        """What `token_ids` gives, as an array of *shape* (T,)."""
        return np.concatenate(
            [
                np.array(segment.token_ids, np.int64)
                if isinstance(segment, TextSegment)
                else np.full(len(segment.texts), placeholder, np.int64)
                for segment in self.segments
            ]
        )

    def vector_places(self) -> NDArray[np.bool_]:
        """Whether a vector stands there, *shape* (T,)."""
        kinds = [isinstance(segment, VectorSegment) for segment in self.segments]
        return np.repeat(np.array(kinds, bool), [_positions(segment) for segment in self.segments])

    def vector_mask(self) -> list[bool]:
        """Whether a vector stands there, for each of the T positions."""
        return [bool(place) for place in self.vector_places()]

    def embeddings(self) -> list[NDArray[np.floating]]:
        """The chunk embeddings in reading order, one (V, D_enc) array a run."""
        return [s.embeddings for s in self.segments if isinstance(s, VectorSegment)]

    def inspection(self) -> Inspection:
        """What `refrag_rag.inspection.render` shows."""
        return Inspection(self.question, self.readings, self.positions, self.plain_positions)

    def _repr_html_(self) -> str:
        """For Jupyter."""
        return fragment(self.inspection())

    def __str__(self) -> str:
        """Render for people: text as it is, each vector as ``<chunk text>``."""
        share = self.positions / max(1, self.plain_positions)
        head = (
            f"{self.positions} positions instead of {self.plain_positions} ({share:.0%}); "
            f"{self.chunks} chunks, {self.expanded} as text\n"
        )
        return head + "".join(_lines(self.segments))


def _positions(segment: Segment) -> int:
    return len(segment.token_ids if isinstance(segment, TextSegment) else segment.texts)


def _lines(segments: Sequence[Segment]) -> Iterator[str]:
    for segment in segments:
        if isinstance(segment, TextSegment):
            yield f"{{{segment.text}}}" if segment.role == "expanded" else segment.text
        else:
            yield "".join(f"<{text}>" for text in segment.texts)
