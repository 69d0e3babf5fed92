"""Expand the passages that the retriever liked best."""

import math

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.ranking import Ranking


class ExpandRetrieval(Ranking):
    """Spends the limit passage by passage, the highest retrieval score first.

    Within a passage it begins with the first chunk. Passages without a score come last, in reading
    order; if none has one, the prompt is expanded from its beginning.
    """

    name = "retrieval"

    def scores(self, chunks: Chunks, question: str) -> NDArray[np.float64]:  # noqa: ARG002
        """Each chunk's passage's score; on a tie the earlier chunk comes first."""
        known = [
            -math.inf if score is None or math.isnan(score) else score for score in chunks.retrieval
        ]
        scores: NDArray[np.float64] = np.array(known, float)[chunks.passages]
        return scores
