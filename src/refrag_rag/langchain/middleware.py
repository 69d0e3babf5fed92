"""RefragMiddleware: what an agent's tools retrieved reaches the model as vectors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, ToolMessage
from typing_extensions import override

from refrag_rag.engine import Refrag
from refrag_rag.langchain.compressor import RefragCompressor
from refrag_rag.langchain.documents import as_document, is_document
from refrag_rag.spans import find_spans


class RefragMiddleware(AgentMiddleware[Any, Any, Any]):
    """Marks retrieved documents in tool results, for the model alone.

    A tool with ``response_format="content_and_artifact"`` (of `create_retriever_tool`, for
    example) leaves its documents in the tool message's artifact. Where their texts stand in the
    message, they are marked just before the model is called; the agent's state keeps the message
    as it was. Documents may be dicts, as checkpointers give them back. A document whose text does
    not stand in the message, or is marked already, is left alone. The settings are those of
    `RefragCompressor`.
    """

    def __init__(
        self,
        engine: Refrag | None = None,
        *,
        title_key: str | None = None,
        score_key: str = "relevance_score",
    ) -> None:
        super().__init__()
        self._compressor = RefragCompressor(engine, title_key=title_key, score_key=score_key)

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Hand the request on with marked documents."""
        return handler(request.override(messages=self.mark(request.messages)))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Hand the request on with marked documents; encoding runs in a thread."""
        messages = await asyncio.to_thread(self.mark, request.messages)
        return await handler(request.override(messages=messages))

    def mark(self, messages: Sequence[AnyMessage]) -> list[AnyMessage]:
        """Messages with marked documents; those that change are copies."""
        return [
            self._marked(message) if isinstance(message, ToolMessage) else message
            for message in messages
        ]

    def _marked(self, message: ToolMessage) -> ToolMessage:
        artifact = message.artifact
        found: Sequence[Any] = artifact if isinstance(artifact, list | tuple) else [artifact]
        documents = [as_document(one) for one in found if is_document(one)]
        if not documents:
            return message
        marked = self._compressor.compress_documents(documents, "")
        texts = [
            (document.page_content, twin.page_content)
            for document, twin in zip(documents, marked, strict=True)
        ]
        return message.model_copy(update={"content": _exchange_in(message.content, texts)})


def _exchange_in(content: Any, texts: Sequence[tuple[str, str]]) -> Any:
    """Exchange in a text, or in the texts and text blocks of a list."""
    if isinstance(content, list):
        return [_exchange_in(block, texts) for block in content]
    if isinstance(content, str):
        return _exchange(content, texts)
    if content.get("type") == "text" and isinstance(content.get("text"), str):
        return {**content, "text": _exchange(content["text"], texts)}
    return content


def _exchange(content: str, texts: Sequence[tuple[str, str]]) -> str:
    """Put marked texts in place of plain ones, in order, outside spans that are there already."""
    spans = [(span.start, span.end) for span in find_spans(content)]
    pieces, done = [], 0
    for plain, marked in texts:
        start = _place(content, plain, done)
        end = start + len(plain)
        if start < 0 or any(first < start and end < last for first, last in spans):
            continue
        pieces += [content[done:start], marked]
        done = end
    return "".join([*pieces, content[done:]])


def _place(content: str, text: str, after: int) -> int:
    """Where a document's text stands; -1 if it does not.

    The same words can stand in the message by chance: whole lines come first, then what begins or
    ends a line. Elsewhere more than one word is needed, and never a part of one.
    """
    best, most = -1, -1 if len(text.split()) > 1 else 0
    start = content.find(text, after) if text.strip() else -1
    while start >= 0 and most < 2:  # both edges are those of lines
        end = start + len(text)
        before, behind = content[start - 1 : start] or "\n", content[end : end + 1] or "\n"
        edges = (before + behind).count("\n")
        cuts_word = (before + text[0]).isalnum() or (text[-1] + behind).isalnum()
        if edges > most and not cuts_word:
            best, most = start, edges
        start = content.find(text, start + 1)
    return best
