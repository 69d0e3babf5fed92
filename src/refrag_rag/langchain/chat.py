"""ChatRefrag: a LangChain chat model that reads marked documents as vectors."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field
from typing_extensions import override

from refrag_rag.langchain.messages import as_prompt
from refrag_rag.langchain.settings import GenerationSettings, report, usage
from refrag_rag.threads import read_in_thread

if TYPE_CHECKING:
    from refrag_rag.answer import Delta
    from refrag_rag.engine import Refrag


class ChatRefrag(GenerationSettings, BaseChatModel):
    """Chat model for chains, retrieval chains and graphs; spans in its messages become vectors.

    Every answer carries its counts and timings in ``response_metadata``: positions used, positions
    the plain text would have taken, cache hits and so on; ``usage_metadata`` counts positions as
    input tokens. A call takes ``max_tokens`` (or ``max_new_tokens``), ``stop``, ``temperature``,
    ``top_p``, ``top_k``, ``repetition_penalty``, ``seed``, ``p``, ``policy`` and ``question``; an
    unknown name is an `InputError`.

    Parameters
    ----------
    engine
        Built engine; or give `model_name` and `store`, and it is built on first use.
    **settings
        Defaults for what a call may give (not ``question``), and the fields of every LangChain
        chat model.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    streaming: bool = Field(default=False, description="Whether invoke reports tokens as it goes.")

    def __init__(self, engine: "Refrag | None" = None, **settings: Any) -> None:
        super().__init__(engine, **settings)

    @property
    @override
    def _llm_type(self) -> str:
        return "refrag-chat"

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        arguments = self._arguments(stop, kwargs)
        prompt = as_prompt(messages, is_chat_model=self.engine.is_chat_model)
        answer = self.engine.generate(prompt, **arguments)
        message = AIMessage(
            content=answer.text,
            usage_metadata=usage(answer),
            response_metadata=report(answer, self.model_name),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        arguments = self._arguments(stop, kwargs)
        prompt = as_prompt(messages, is_chat_model=self.engine.is_chat_model)
        for delta in self.engine.stream(prompt, **arguments):
            chunk = _chunk(delta, self.model_name)
            if run_manager:
                run_manager.on_llm_new_token(delta.text, chunk=chunk)
            yield chunk

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await asyncio.to_thread(self._generate, messages, stop, **kwargs)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in read_in_thread(lambda: self._stream(messages, stop, **kwargs)):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _chunk(delta: "Delta", model_name: str) -> ChatGenerationChunk:
    if delta.answer is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=delta.text))
    # Chunks are added up by their readers: counts stand on the last one alone.
    message = AIMessageChunk(
        content=delta.text,
        usage_metadata=usage(delta.answer),
        response_metadata=report(delta.answer, model_name),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message)
