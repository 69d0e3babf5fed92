"""fp16: IEEE half precision, two bytes a number."""

import numpy as np

from refrag_rag.store.formats.base import Vectors, too_large

LITTLE = np.dtype("<f2")


class Fp16:
    """The default: relative error at most 2^-11, numbers up to 65,504."""

    name = "fp16"
    dtype = np.dtype(np.float16)
    plain = True

    def size(self, chunks: int, width: int) -> int:
        """Bytes for `chunks` vectors of `width` numbers."""
        return 2 * chunks * width

    def encode(self, vectors: Vectors) -> bytes:
        """Round to the nearest half."""
        with np.errstate(over="ignore"):
            halves = vectors.astype(LITTLE)
        if not np.isfinite(halves).all():
            raise too_large(self.name)
        return halves.tobytes()

    def decode(self, data: bytes | memoryview, out: Vectors) -> None:
        """Copy."""
        out[...] = np.frombuffer(data, LITTLE).reshape(out.shape)
