"""RefragModel: encoder, projector and decoder, composed."""

from refrag_rag.model.model import DecoderInputs, RefragModel

__all__ = ["DecoderInputs", "RefragModel"]
