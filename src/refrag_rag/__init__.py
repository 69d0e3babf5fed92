"""REFRAG for existing RAG chains: a local decoder reads one vector per k tokens of a passage."""

from refrag_rag.answer import Answer, Counts, Delta, PrecomputeReport, Timings
from refrag_rag.config import RefragConfig
from refrag_rag.engine import Refrag
from refrag_rag.errors import (
    CheckpointError,
    InputError,
    MissingExtraError,
    PromptTooLongError,
    RefragError,
    StoreError,
)
from refrag_rag.model import RefragModel
from refrag_rag.prompt import CompressedPrompt
from refrag_rag.spans import compressible, strip_spans

__all__ = [
    "Answer",
    "CheckpointError",
    "CompressedPrompt",
    "Counts",
    "Delta",
    "InputError",
    "MissingExtraError",
    "PrecomputeReport",
    "PromptTooLongError",
    "Refrag",
    "RefragConfig",
    "RefragError",
    "RefragModel",
    "StoreError",
    "Timings",
    "compressible",
    "strip_spans",
]
__version__ = "0.1.0"
