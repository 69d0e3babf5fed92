"""REFRAG in LangChain: one index-time step, one document compressor, one model.

Examples
--------
>>> engine = Refrag.load("tiny", store="./vectors")                           # doctest: +SKIP
>>> documents = RefragIndexer(engine).transform_documents(splits)             # doctest: +SKIP
>>> retriever = ContextualCompressionRetriever(                               # doctest: +SKIP
...     base_compressor=RefragCompressor(), base_retriever=store.as_retriever()
... )
>>> answer = create_stuff_documents_chain(ChatRefrag(engine), prompt)         # doctest: +SKIP
>>> chain = create_retrieval_chain(retriever, answer)                         # doctest: +SKIP
"""

from refrag_rag.langchain.chat import ChatRefrag
from refrag_rag.langchain.documents import (
    RefragCompressor,
    RefragIndexer,
    precompute_documents,
    span_text,
    strip_documents,
)
from refrag_rag.langchain.llm import RefragLLM

__all__ = [
    "ChatRefrag",
    "RefragCompressor",
    "RefragIndexer",
    "RefragLLM",
    "precompute_documents",
    "span_text",
    "strip_documents",
]
