"""int8: one byte a number, one scale for every 64 numbers of a vector."""

import numpy as np
from numpy.typing import NDArray

from refrag_rag.store.formats.base import Vectors, too_large

GROUP = 64
LARGEST = 127
SCALES = np.dtype("<u2")


class Int8:
    """Symmetric, in groups, so that one outlier dimension costs only its neighbours precision.

    A scale is a bf16, rounded: full range in two bytes, and off by so little that the largest code
    stays 127. So what was read and is put again comes out the same.
    """

    name = "int8"
    dtype = np.dtype(np.float32)
    plain = False

    def size(self, chunks: int, width: int) -> int:
        """Bytes for `chunks` vectors of `width` numbers."""
        return chunks * (width + SCALES.itemsize * _groups(width))

    def encode(self, vectors: Vectors) -> bytes:
        """Scales first, then codes."""
        chunks, width = vectors.shape
        padded = np.zeros((chunks, _groups(width) * GROUP), np.float32)
        padded[:, :width] = vectors
        groups = padded.reshape(chunks, _groups(width), GROUP)
        exact = np.abs(groups).max(axis=-1) / np.float32(LARGEST)
        halves = (exact.view(np.uint32) + 0x8000) >> 16
        if (halves & 0x7F80 == 0x7F80).any():
            raise too_large(self.name)
        scales = _scales(halves)
        codes = np.rint(groups / np.where(scales, scales, 1)[..., None]).astype(np.int8)
        kept = codes.reshape(padded.shape)[:, :width]
        return bytes(halves.astype(SCALES).tobytes() + kept.tobytes())

    def decode(self, data: bytes | memoryview, out: Vectors) -> None:
        """Codes times scales."""
        chunks, width = out.shape
        count = chunks * _groups(width)
        halves = np.frombuffer(data, SCALES, count).astype(np.uint32)
        codes = np.frombuffer(data, np.int8, offset=count * SCALES.itemsize)
        codes = codes.reshape(chunks, width)
        scales = _scales(halves).reshape(chunks, _groups(width))
        each = np.repeat(scales, GROUP, axis=1)[:, :width]
        np.multiply(codes, each, out=out, casting="same_kind")


def _groups(width: int) -> int:
    return -(-width // GROUP)


def _scales(halves: NDArray[np.uint32]) -> NDArray[np.float32]:
    return (halves.astype(np.uint32) << 16).view(np.float32)
