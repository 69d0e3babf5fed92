"""bf16: the upper half of a float32, two bytes a number."""

import numpy as np

from refrag_rag.store.formats.base import Vectors, too_large

LITTLE = np.dtype("<u2")


class Bf16:
    """The range of float32, relative error at most 2^-8. Read as float32: numpy has no bf16."""

    name = "bf16"
    dtype = np.dtype(np.float32)
    plain = False

    def size(self, chunks: int, width: int) -> int:
        """Bytes for `chunks` vectors of `width` numbers."""
        return 2 * chunks * width

    def encode(self, vectors: Vectors) -> bytes:
        """Round to the nearest, ties to even."""
        bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
        halves = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        if (halves & 0x7F80 == 0x7F80).any():  # an exponent of ones: infinity
            raise too_large(self.name)
        return halves.astype(LITTLE).tobytes()

    def decode(self, data: bytes | memoryview, out: Vectors) -> None:
        """Put zeros behind."""
        bits = np.frombuffer(data, LITTLE).astype(np.uint32) << 16
        out[...] = bits.view(np.float32).reshape(out.shape)
