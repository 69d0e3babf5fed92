"""How chunk embeddings are kept: one class a format, one line in `FORMATS`."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError

Vectors = NDArray[np.float16] | NDArray[np.float32]
Buffer = bytes | memoryview
UPPER = np.dtype("<u2")  # the upper half of a float32, which is a bf16


class VectorFormat(Protocol):
    """One way to keep (L, D_enc) chunk embeddings.

    Attributes
    ----------
    name
        At most eight ASCII characters; it stands in every entry.
    dtype
        Of the arrays that are read, float16 or float32.
    """

    name: str
    dtype: np.dtype[Any]

    def encode(self, vectors: Vectors) -> bytes:
        """Bytes of (L, D_enc) vectors, which need nothing else to be read.

        Raises
        ------
        StoreError
            If a number is too large for the format.
        """

    def decode(self, data: Buffer, out: Vectors) -> None:
        """Write what `encode` was given, as exactly as the format keeps it, into `out`.

        Raises
        ------
        ValueError
            If the bytes are too few or too many.
        """


class Plain:
    """IEEE numbers. fp16: relative error at most 2^-11, up to 65,504; fp32: without loss."""

    def __init__(self, name: str, dtype: str) -> None:
        self.name = name
        self.dtype = np.dtype(dtype)
        self._little = self.dtype.newbyteorder("<")

    def encode(self, vectors: Vectors) -> bytes:
        """Round to the nearest."""
        with np.errstate(over="ignore"):
            numbers = vectors.astype(self._little)
        if not np.isfinite(numbers).all():
            raise _too_large(self.name)
        return numbers.tobytes()

    def decode(self, data: Buffer, out: Vectors) -> None:
        """Copy."""
        out[...] = np.frombuffer(data, self._little).reshape(out.shape)


class Bf16:
    """The range of float32, relative error at most 2^-8. Read as float32: numpy has no bf16."""

    name = "bf16"
    dtype = np.dtype(np.float32)

    def encode(self, vectors: Vectors) -> bytes:
        """Round to the nearest, ties to even."""
        bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
        return _upper(bits + 0x7FFF + ((bits >> 16) & 1), self.name).tobytes()

    def decode(self, data: Buffer, out: Vectors) -> None:
        """Put zeros behind."""
        out[...] = _floats(np.frombuffer(data, UPPER)).reshape(out.shape)


class Int8:
    """One byte a number, one scale for every 64 numbers of a vector; scales first.

    In groups, so that one outlier dimension costs only its neighbours precision. A scale is a
    bf16, rounded: full range in two bytes, and off by so little that the largest code stays 127.
    So what was read and is put again comes out the same.
    """

    name = "int8"
    dtype = np.dtype(np.float32)
    group, largest = 64, 127

    def encode(self, vectors: Vectors) -> bytes:
        """Divide by the group's scale and round to the nearest."""
        chunks, width = vectors.shape
        groups = -(-width // self.group)
        padded = np.zeros((chunks, groups, self.group), np.float32)
        padded.reshape(chunks, groups * self.group)[:, :width] = vectors
        exact = np.abs(padded).max(axis=-1) / np.float32(self.largest)  # (L, groups)
        kept = _upper(exact.view(np.uint32) + 0x8000, self.name)
        scales = _floats(kept)[..., None]
        codes = np.rint(padded / np.where(scales, scales, 1)).astype(np.int8)
        codes = codes.reshape(chunks, groups * self.group)[:, :width]
        return bytes(kept.tobytes() + codes.tobytes())

    def decode(self, data: Buffer, out: Vectors) -> None:
        """Codes times scales."""
        chunks, width = out.shape
        groups = -(-width // self.group)
        scales = _floats(np.frombuffer(data, UPPER, chunks * groups)).reshape(chunks, groups)
        codes = np.frombuffer(data, np.int8, offset=chunks * groups * UPPER.itemsize)
        each = np.repeat(scales, self.group, axis=1)[:, :width]
        np.multiply(codes.reshape(chunks, width), each, out=out, casting="same_kind")


FORMATS: dict[str, VectorFormat] = {
    made.name: made
    for made in (
        Plain("fp16", "float16"),
        Plain("fp32", "float32"),
        Bf16(),
        Int8(),
    )
}


def get_format(name: str) -> VectorFormat:
    """Look a format up by its name.

    Raises
    ------
    StoreError
        If there is none.
    """
    if name not in FORMATS:
        raise StoreError(f"Format {name!r}; expected one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def _upper(bits: NDArray[np.uint32], name: str) -> NDArray[np.uint16]:
    """The upper halves of float32 numbers, refused where one became infinite by rounding."""
    halves = bits >> 16
    if (halves & 0x7F80 == 0x7F80).any():  # an exponent of ones
        raise _too_large(name)
    return halves.astype(UPPER)


def _floats(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (halves.astype(np.uint32) << 16).view(np.float32)


def _too_large(name: str) -> StoreError:
    return StoreError(
        f"Chunk embeddings are too large for the format {name!r}; expected finite numbers within "
        "its range. Keep them as 'bf16' or 'fp32'."
    )
