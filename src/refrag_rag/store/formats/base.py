"""The VectorFormat protocol: how the chunk embeddings of a passage become bytes."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import StoreError

Vectors = NDArray[np.float16] | NDArray[np.float32]


class VectorFormat(Protocol):
    """One way to keep (L, D_enc) chunk embeddings.

    Attributes
    ----------
    name
        At most eight ASCII characters; it stands in every entry.
    dtype
        Of the arrays that are read, float16 or float32.
    plain
        Whether the bytes are those of an array of `dtype`, so that reading is copying.
    """

    name: str
    dtype: np.dtype[Any]
    plain: bool

    def size(self, chunks: int, width: int) -> int:
        """Bytes for `chunks` vectors of `width` numbers."""

    def encode(self, vectors: Vectors) -> bytes:
        """Bytes of (L, D_enc) vectors.

        Raises
        ------
        StoreError
            If a number is too large for the format.
        """

    def decode(self, data: "bytes | memoryview", out: Vectors) -> None:
        """Write what `encode` was given, as exactly as the format keeps it, into `out`."""


def too_large(name: str) -> StoreError:
    """Error for numbers that a format cannot hold."""
    return StoreError(
        f"Chunk embeddings are too large for the format {name!r}; expected finite numbers within "
        "its range. Keep them as 'bf16' or 'fp32'."
    )
