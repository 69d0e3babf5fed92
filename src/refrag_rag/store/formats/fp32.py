"""fp32: what the encoder gave, four bytes a number."""

import numpy as np

from refrag_rag.store.formats.base import Vectors

LITTLE = np.dtype("<f4")


class Fp32:
    """Without loss."""

    name = "fp32"
    dtype = np.dtype(np.float32)
    plain = True

    def size(self, chunks: int, width: int) -> int:
        """Bytes for `chunks` vectors of `width` numbers."""
        return 4 * chunks * width

    def encode(self, vectors: Vectors) -> bytes:
        """Copy."""
        return vectors.astype(LITTLE).tobytes()

    def decode(self, data: bytes | memoryview, out: Vectors) -> None:
        """Copy."""
        out[...] = np.frombuffer(data, LITTLE).reshape(out.shape)
