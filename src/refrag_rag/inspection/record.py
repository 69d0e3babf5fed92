"""Inspection: what the page shows, whether the question was answered or only laid out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refrag_rag.readings import SpanReading


@dataclass(frozen=True, eq=False)
class Inspection:
    """One prompt, and its answer if there is one.

    Attributes
    ----------
    question
        What the policy was asked.
    readings
        How each span was read, in the order of the prompt.
    positions, plain_positions
        Decoder positions of the prompt, and with every chunk as text.
    answer
        The answer's text.
    seconds
        Parts of the time with their lengths, in order.
    """

    question: str
    readings: tuple[SpanReading, ...]
    positions: int
    plain_positions: int
    answer: str | None = None
    seconds: tuple[tuple[str, float], ...] = ()

    @property
    def chunks(self) -> int:
        """Chunks of all spans."""
        return sum(len(reading) for reading in self.readings)

    @property
    def expanded(self) -> int:
        """Those of the chunks that are read as text."""
        return sum(int(reading.expanded.sum()) for reading in self.readings)

    def ranks(self) -> Iterator[NDArray[np.float64]]:
        """Of each reading its chunks' scores, stretched over 0 to 1 across the prompt.

        *Shape:* (L,) each; 0 without a score, and 1 for all where all scores are equal.
        """
        known = [_finite(reading) for reading in self.readings]
        values = np.concatenate([np.zeros(0), *(one[~np.isnan(one)] for one in known)])
        low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
        for one in known:
            stretched = (one - low) / (high - low) if high > low else np.ones(len(one))
            yield np.where(np.isnan(one), 0.0, stretched)

    def _repr_html_(self) -> str:
        """For Jupyter."""
        from refrag_rag.inspection.page import fragment

        return fragment(self)


def _finite(reading: SpanReading) -> NDArray[np.float64]:
    """Scores, with NaN for chunks that have none."""
    if reading.scores is None:
        return np.full(len(reading), np.nan)
    scores = np.asarray(reading.scores, np.float64)
    return np.where(np.isfinite(scores), scores, np.nan)
