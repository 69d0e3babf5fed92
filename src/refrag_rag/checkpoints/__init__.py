"""Loading and saving models: names to folders, folders to parts."""

from refrag_rag.checkpoints.native import load, save
from refrag_rag.checkpoints.resolve import EMBEDDED, resolve

__all__ = ["EMBEDDED", "load", "resolve", "save"]
