"""Expand chunks at random: the yardstick for every other policy."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from refrag_rag.policies.base import Chunks
from refrag_rag.policies.ranking import free


class ExpandRandom:
    """As many chunks as the limit allows, the same ones for the same chunks and question."""

    name = "random"

    def select(self, chunks: Chunks, question: str, limit: int) -> NDArray[np.bool_]:
        """Choose without replacement, seeded from the content."""
        content = "\x00".join((question, *chunks.texts)).encode("utf-8", "surrogatepass")
        seed = int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
        mask = np.zeros(len(chunks.texts), bool)
        rows = free(chunks)
        count = min(limit, len(rows))
        mask[rows[np.random.default_rng(seed).choice(len(rows), count, replace=False)]] = True
        return mask
