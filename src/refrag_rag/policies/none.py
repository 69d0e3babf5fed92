"""Expand nothing."""

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks


class ExpandNone:
    """Every chunk stays a vector."""

    name = "none"

    def select(self, chunks: Chunks, question: str, limit: int) -> NDArray[np.bool_]:  # noqa: ARG002
        """Choose no chunk."""
        return np.zeros(len(chunks.texts), bool)
