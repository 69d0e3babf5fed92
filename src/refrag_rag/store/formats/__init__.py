"""How chunk embeddings are kept: one file a format, one line here."""

from refrag_rag.errors import StoreError
from refrag_rag.store.formats.base import VectorFormat, Vectors
from refrag_rag.store.formats.bf16 import Bf16
from refrag_rag.store.formats.fp16 import Fp16
from refrag_rag.store.formats.fp32 import Fp32
from refrag_rag.store.formats.int8 import Int8

__all__ = ["FORMATS", "VectorFormat", "Vectors", "get_format"]

FORMATS: dict[str, VectorFormat] = {
    made.name: made
    for made in (
        Fp16(),
        Fp32(),
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
