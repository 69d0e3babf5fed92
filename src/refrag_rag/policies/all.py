"""Expand everything: the plain decoder on the same prompt."""

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks


class ExpandAll:
    """Every chunk becomes text, whatever the limit."""

    name = "all"

    def select(self, chunks: Chunks, question: str, limit: int) -> NDArray[np.bool_]:  # noqa: ARG002
        """Choose all chunks."""
        return np.ones(len(chunks.texts), bool)
