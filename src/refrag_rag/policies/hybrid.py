"""Expand by the question's words and by the retriever's scores together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.lexical import ExpandLexical
from refrag_rag.policies.ranking import Ranking

RETRIEVAL_WEIGHT = 0.4  # of one standard deviation, beside 1 for the best match of words


class ExpandHybrid(Ranking):
    """Words find the chunk, the retriever's score finds the passage.

    A chunk's score is that of `lexical`, as a share of the best one, plus a weight times its
    passage's retrieval score in standard deviations from the prompt's mean: whatever scale the
    retriever has. Where no passage has a score, or all have the same, it is `lexical`.
    """

    name = "hybrid"

    def scores(self, chunks: Chunks, question: str) -> NDArray[np.float64]:
        """Both parts added; *shape* (L,)."""
        words = ExpandLexical().scores(chunks, question)
        retrieved = standard_scores(chunks.retrieval)
        if not retrieved.any():
            return words
        matched = np.nan_to_num(words)
        share = matched / max(matched.max(), np.finfo(float).tiny)
        scores: NDArray[np.float64] = share + RETRIEVAL_WEIGHT * retrieved[chunks.passages]
        return scores


def standard_scores(retrieval: Sequence[float | None]) -> NDArray[np.float64]:
    """Retrieval scores in standard deviations from their mean, *shape* (passages,).

    A passage without a score counts as the lowest; all zeros where nothing is known.
    """
    values = np.array([np.nan if score is None else score for score in retrieval], float)
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values))
    values[~known] = values[known].min()
    if values.max() - values.min() <= 1e-9 * np.abs(values).max():
        return np.zeros(len(values))
    standard: NDArray[np.float64] = (values - values.mean()) / values.std()
    return standard
