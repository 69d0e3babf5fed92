"""Prompts: what is asked, and what the decoder will read."""

from refrag_rag.prompt.prompt import (
    VECTOR,
    CompressedPrompt,
    Segment,
    SpanLayout,
    TextSegment,
    VectorSegment,
)

__all__ = [
    "VECTOR",
    "CompressedPrompt",
    "Segment",
    "SpanLayout",
    "TextSegment",
    "VectorSegment",
]
