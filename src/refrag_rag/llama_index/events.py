"""Every answer of `RefragLLM` as an event of LlamaIndex's instrumentation."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher

from refrag_rag.generation.answer import Answer

_handlers = threading.Lock()


class RefragAnswerEvent(BaseEvent):
    """An answer is complete: sent once for each, streamed or not, from sync and async calls.

    Attributes
    ----------
    text
        The answer.
    metadata
        Counts and timings, the same as in ``response.raw`` of the LLM; JSON knows their types.
    answer
        The engine's `Answer`, which Jupyter shows passage by passage; not part of a dump.
    """

    text: str
    metadata: dict[str, Any]
    answer: Any = Field(exclude=True, repr=False)

    @classmethod
    def class_name(cls) -> str:
        """Name in traces."""
        return "RefragAnswerEvent"


class _Collector(BaseEventHandler):
    """Keeps the answers that it sees."""

    events: list[RefragAnswerEvent] = Field(default_factory=list)

    @classmethod
    def class_name(cls) -> str:
        return "RefragAnswerCollector"

    def __eq__(self, other: object) -> bool:
        return self is other  # equal contents must not make one collector another

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, RefragAnswerEvent):
            self.events.append(event)


def send(answer: Answer) -> None:
    """Send the event of an answer to all handlers."""
    event = RefragAnswerEvent(text=answer.text, metadata=answer.metadata(), answer=answer)
    get_dispatcher(__name__).event(event)


@contextmanager
def collect_answers() -> Iterator[list[RefragAnswerEvent]]:
    """Collect the answers that any `RefragLLM` gives meanwhile, in the order of their ends.

    Those of other threads too: ``tags`` of an event (`instrument_tags`) tell whose it is. A
    streamed answer comes when it was read to its end.
    """
    collector, handlers = _Collector(), get_dispatcher().event_handlers
    with _handlers:
        handlers.append(collector)
    try:
        yield collector.events
    finally:
        with _handlers:
            handlers.remove(collector)
