"""Ask an index: the same question from full text and from compressed context, side by side."""

from dataclasses import dataclass
from typing import Any

from llama_index.core import VectorStoreIndex

from refrag_rag.answer import Answer
from refrag_rag.engine import Refrag
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, collect_answers

Counts = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """An answer with the counts and timings that its response carried."""

    text: str
    counts: Counts
    answer: Answer


class Asker:
    """A LlamaIndex query engine over an index, with what its LLM reported.

    Parameters
    ----------
    index
        What is asked.
    engine
        Answers.
    top_k
        Passages retrieved for a question.
    **settings
        Of `RefragLLM`: ``policy``, ``p`` ...
    """

    def __init__(
        self, index: VectorStoreIndex, engine: Refrag, *, top_k: int = 8, **settings: Any
    ) -> None:
        self._query_engine = index.as_query_engine(
            llm=RefragLLM(engine, max_new_tokens=24, **settings),
            node_postprocessors=[RefragPostprocessor(engine)],
            similarity_top_k=top_k,
        )

    def ask(self, question: str) -> Reading:
        """Answer one question."""
        with collect_answers() as events:
            response = self._query_engine.query(question)
        return Reading(str(response), events[-1].metadata, events[-1].answer)
