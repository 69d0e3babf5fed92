"""Ask an index: the same question from full text and from compressed context, side by side."""

from dataclasses import dataclass
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent
from llama_index_instrumentation import get_dispatcher
from pydantic import Field

from refrag_rag.engine import Refrag
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor

Counts = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """An answer with the counts and timings that its response carried."""

    text: str
    counts: Counts


class LastCounts(BaseEventHandler):
    """Keeps the counts of the last chat response that LlamaIndex saw."""

    counts: Counts = Field(default_factory=dict)

    @classmethod
    def class_name(cls) -> str:
        """Name in events."""
        return "LastCounts"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:  # noqa: ARG002
        """Take the counts from the end of a chat."""
        if isinstance(event, LLMChatEndEvent) and event.response is not None:
            self.counts = dict(event.response.additional_kwargs)


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
        self._counts = LastCounts()
        self._dispatcher = get_dispatcher()
        self._query_engine = index.as_query_engine(
            llm=RefragLLM(engine, max_new_tokens=24, **settings),
            node_postprocessors=[RefragPostprocessor(engine)],
            similarity_top_k=top_k,
        )

    def ask(self, question: str) -> Reading:
        """Answer one question."""
        self._dispatcher.add_event_handler(self._counts)
        try:
            response = self._query_engine.query(question)
        finally:
            self._dispatcher.event_handlers.remove(self._counts)
        return Reading(str(response), self._counts.counts)
