"""RefragModel: encoder, projector and decoder, composed."""

from refrag_rag.model.inputs import DecoderInputs
from refrag_rag.model.model import RefragModel

__all__ = ["DecoderInputs", "RefragModel"]
