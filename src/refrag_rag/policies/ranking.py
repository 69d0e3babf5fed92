"""The best chunks by a score, as a mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks


def best(chunks: Chunks, scores: NDArray[Any], budget: int) -> NDArray[np.bool_]:
    """The `budget` free chunks of the highest scores, the earlier one on a tie.

    Parameters
    ----------
    scores
        *Shape:* (L,); a chunk with NaN is never chosen.

    Returns
    -------
    ndarray
        *Shape:* (L,), bool.
    """
    mask = np.zeros(len(chunks.texts), bool)
    rows = free(chunks)
    rows = rows[~np.isnan(scores[rows])]
    mask[rows[np.argsort(-scores[rows], kind="stable")[:budget]]] = True
    return mask


def free(chunks: Chunks) -> NDArray[np.intp]:
    """Indices of the chunks that no earlier policy of a chain has taken."""
    if chunks.taken is None:
        return np.arange(len(chunks.texts))
    return np.flatnonzero(~chunks.taken)
