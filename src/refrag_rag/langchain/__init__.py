"""REFRAG in LangChain: one index-time step, one document compressor, one model.

Agents: `RefragMiddleware`, which needs the ``langchain`` package.
"""

from typing import TYPE_CHECKING, Any

from refrag_rag.errors import need

need("langchain", "refrag_rag.langchain", ["langchain_core"])

from refrag_rag.langchain.chat import ChatRefrag
from refrag_rag.langchain.compressor import RefragCompressor
from refrag_rag.langchain.documents import (
    RefragIndexer,
    precompute_documents,
    span_text,
    strip_documents,
)
from refrag_rag.langchain.llm import RefragLLM
from refrag_rag.langchain.numbered import NumberedPassages

if TYPE_CHECKING:
    from refrag_rag.langchain.middleware import RefragMiddleware as RefragMiddleware

__all__ = [
    "ChatRefrag",
    "NumberedPassages",
    "RefragCompressor",
    "RefragIndexer",
    "RefragLLM",
    "precompute_documents",
    "span_text",
    "strip_documents",
]


def __getattr__(name: str) -> Any:
    # Agents are a package of their own, which chains do without.
    if name != "RefragMiddleware":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    need("agents", f"{__name__}.{name}", ["langchain.agents.middleware"])
    from refrag_rag.langchain.middleware import RefragMiddleware

    return RefragMiddleware
