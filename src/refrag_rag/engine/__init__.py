"""The engine: everything between prompt text with spans and the answer."""

from refrag_rag.engine.engine import Refrag

__all__ = ["Refrag"]
