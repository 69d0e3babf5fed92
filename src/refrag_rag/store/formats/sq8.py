"""SQ8: FAISS's 8-bit scalar quantizer, one trained range a dimension."""

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError
from refrag_rag.store.formats.base import Vectors

LEVELS = 255


class SQ8:
    """A codec of its own: its bytes mean nothing without the trained ranges.

    That is why it is measured beside the other formats and not offered to the store: every entry
    and every shard would depend on ranges that are kept elsewhere.

    Parameters
    ----------
    low, span
        *Shape:* (D_enc,) each, float32: smallest number and range of every dimension.

    References
    ----------
    ``QT_8bit`` of faiss.ScalarQuantizer, with its default training (least and largest number).
    """

    name = "sq8"

    def __init__(self, low: NDArray[np.float32], span: NDArray[np.float32]) -> None:
        self.low, self.span = low, span

    @classmethod
    def train(cls, vectors: Vectors) -> "SQ8":
        """Take the ranges of (N, D_enc) vectors.

        Raises
        ------
        StoreError
            If there are no vectors.
        """
        if not len(vectors):
            raise StoreError("SQ8 got no vectors to train on; expected at least one.")
        low = vectors.min(axis=0).astype(np.float32)
        return cls(low, vectors.max(axis=0).astype(np.float32) - low)

    def size(self, chunks: int, width: int) -> int:
        """Bytes for `chunks` vectors of `width` numbers."""
        return chunks * width

    def encode(self, vectors: Vectors) -> bytes:
        """One level a number; what lies outside the trained range is moved to its end."""
        share = (vectors - self.low) / np.where(self.span, self.span, 1)
        return (np.clip(share, 0, 1) * LEVELS).astype(np.uint8).tobytes()

    def decode(self, data: bytes | memoryview, out: Vectors) -> None:
        """Read the middles of the levels."""
        codes = np.frombuffer(data, np.uint8).reshape(out.shape)
        out[...] = self.low + (codes + np.float32(0.5)) / LEVELS * self.span
