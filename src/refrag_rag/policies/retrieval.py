"""Expand the passages that the retriever liked best."""

import math

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.ranking import best


class ExpandRetrieval:
    """Spends the budget passage by passage, the highest retrieval score first.

    Within a passage it begins with the first chunk. Passages without a score come last, in reading
    order; if none has one, the prompt is expanded from its beginning.
    """

    name = "retrieval"

    def select(self, chunks: Chunks, question: str, budget: int) -> NDArray[np.bool_]:  # noqa: ARG002
        """Choose from the first chunk of the best passage on."""
        known = [
            -math.inf if score is None or math.isnan(score) else score for score in chunks.retrieval
        ]
        return best(chunks, np.array(known, float)[chunks.passages], budget)
