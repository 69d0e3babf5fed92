"""Inspection: what the page shows, whether the question was answered or only laid out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refrag_rag.generation.answer import Answer
from refrag_rag.prompt import CompressedPrompt, SpanLayout


class Chunk(NamedTuple):
    """A chunk of a passage.

    Attributes
    ----------
    score
        The policy's, if it gave one.
    rank
        The score stretched over 0 to 1 across the prompt; 0 without a score, and 1 for all where
        all scores are equal.
    """

    text: str
    expanded: bool
    score: float | None
    rank: float


@dataclass(frozen=True, eq=False)
class Inspection:
    """One prompt, and its answer if there is one.

    Attributes
    ----------
    question
        What the policy was asked.
    layouts
        How each span was read, in the order of the prompt.
    positions, plain_positions
        Decoder positions of the prompt, and with every chunk as text.
    answer
        The answer's text.
    seconds
        Parts of the time with their lengths, in order.
    """

    question: str
    layouts: tuple[SpanLayout, ...]
    positions: int
    plain_positions: int
    answer: str | None = None
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def vectors(self) -> int:
        """Chunks that were one vector each."""
        return sum(int((~layout.expanded).sum()) for layout in self.layouts)

    def passages(self) -> Iterator[list[Chunk]]:
        """The chunks of each span."""
        known = [_finite(layout) for layout in self.layouts]
        values = np.concatenate([np.zeros(0), *(one[~np.isnan(one)] for one in known)])
        low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
        for layout, scores in zip(self.layouts, known, strict=True):
            ranks = (scores - low) / (high - low) if high > low else np.ones(len(scores))
            yield [
                Chunk(text, bool(read), *((None, 0.0) if np.isnan(score) else (score, rank)))
                for text, read, score, rank in zip(
                    layout.texts(), layout.expanded, scores, ranks, strict=True
                )
            ]


def inspect(shown: Answer | CompressedPrompt) -> Inspection:
    """What the page shows of an answer, or of a prompt that was only laid out."""
    if isinstance(shown, CompressedPrompt):
        return Inspection(shown.question, shown.layouts, shown.positions, shown.plain_positions)
    return Inspection(
        question=shown.question,
        layouts=shown.layouts,
        positions=shown.counts.positions,
        plain_positions=shown.counts.plain_positions,
        answer=shown.text,
        seconds=shown.timings.parts(),
    )


def _finite(layout: SpanLayout) -> NDArray[np.float64]:
    """Scores, with NaN for chunks that have none. *Shape:* (L,)."""
    if layout.scores is None:
        return np.full(len(layout), np.nan)
    scores = np.asarray(layout.scores, np.float64)
    return np.where(np.isfinite(scores), scores, np.nan)
