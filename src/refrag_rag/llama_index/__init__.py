"""REFRAG in LlamaIndex: one transformation, one postprocessor, one LLM."""

from refrag_rag.errors import need

need("llama-index", "refrag_rag.llama_index")

from refrag_rag.llama_index.events import RefragAnswerEvent, collect_answers
from refrag_rag.llama_index.llm import RefragLLM
from refrag_rag.llama_index.nodes import MetadataPlace, passage_text
from refrag_rag.llama_index.numbered import NumberedPassages
from refrag_rag.llama_index.postprocessor import RefragPostprocessor
from refrag_rag.llama_index.transform import RefragTransform

__all__ = [
    "MetadataPlace",
    "NumberedPassages",
    "RefragAnswerEvent",
    "RefragLLM",
    "RefragPostprocessor",
    "RefragTransform",
    "collect_answers",
    "passage_text",
]
