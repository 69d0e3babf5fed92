"""ChatRefrag: a LangChain chat model that reads marked documents as vectors."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import override

from refrag_rag.adapters.arguments import choose_tools
from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.generation.answer import Answer
from refrag_rag.generation.request import ARGUMENTS
from refrag_rag.generation.threads import read_in_thread
from refrag_rag.langchain.messages import as_prompt
from refrag_rag.langchain.settings import GenerationSettings, Stop
from refrag_rag.langchain.tool_calls import answer_message, message_chunks

AnyTool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


class ChatRefrag(GenerationSettings, BaseChatModel):
    """Chat model for chains, retrieval chains and graphs; spans in its messages become vectors.

    Every answer carries its counts and timings in ``response_metadata``; ``usage_metadata`` counts
    positions as input tokens. A call takes ``max_tokens`` (or ``max_new_tokens``), ``stop``,
    ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``seed``, ``p``, ``policy``,
    ``question`` and ``tools``; an unknown name is an `InputError`.

    Give it an engine, or `model_name` and `store` of one that is loaded on first use, and defaults
    for what a call may give (not ``question``).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    streaming: bool = Field(default=False, description="Whether invoke reports tokens as it goes.")
    _call_arguments: ClassVar = ARGUMENTS

    def __init__(self, engine: Refrag | None = None, **settings: Any) -> None:
        super().__init__(engine, **settings)

    @property
    @override
    def _llm_type(self) -> str:
        return "refrag-chat"

    @override
    def bind_tools(
        self,
        tools: Sequence[AnyTool],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools through the model's chat template.

        As `tool_choice` a name offers that tool alone, ``"none"`` no tool; all else offers all, as
        no model can be forced to call one.

        Raises
        ------
        InputError
            If `tool_choice` names no tool; in the call, if the model's chat template has no place
            for tools.
        """
        shaped = [convert_to_openai_tool(tool) for tool in tools]
        return super().bind(tools=choose_tools(shaped, tool_choice), **kwargs)

    @override
    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["function_calling", "json_mode"] = "function_calling",
        include_raw: bool = False,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Parse answers to a schema. Nothing forces the model to keep to it.

        Parameters
        ----------
        method
            ``function_calling`` offers the schema as the one tool; the chat template must have a
            place for tools. ``json_mode`` reads the answer's text as JSON; the prompt must ask for
            it.
        include_raw
            Answer with ``raw``, ``parsed`` and ``parsing_error`` instead of failing.

        Raises
        ------
        InputError
            For another method.
        """
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if method != "json_mode":
            raise InputError(
                f"method = {method!r}; expected 'function_calling' or 'json_mode'. Answers are "
                "not constrained to a schema."
            )
        return _parsed_json(self, schema, include_raw=include_raw)

    @override
    def _generate(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        prompt, arguments = self._request(messages, stop, kwargs)
        return self._result(self.engine.generate(prompt, **arguments), arguments)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: Stop = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        prompt, arguments = self._request(messages, stop, kwargs)
        deltas = self.engine.stream(prompt, **arguments)
        for message in message_chunks(deltas, arguments.get("tools", ()), self.model_name):
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    @override
    async def _agenerate(
        self, messages: list[BaseMessage], stop: Stop = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        # Read piece by piece: a caller that is cancelled stops the thread at the next token.
        *_, result = [r async for r in read_in_thread(lambda: self._steps(messages, stop, kwargs))]
        return cast(ChatResult, result)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: Stop = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async for chunk in read_in_thread(lambda: self._stream(messages, stop, **kwargs)):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _steps(
        self, messages: list[BaseMessage], stop: Stop, kwargs: Mapping[str, Any]
    ) -> Iterator[ChatResult | None]:
        """Yield nothing at every step, and the result in the end."""
        prompt, arguments = self._request(messages, stop, kwargs)
        for delta in self.engine.stream(prompt, **arguments):
            yield None if delta.answer is None else self._result(delta.answer, arguments)

    def _request(
        self, messages: list[BaseMessage], stop: Stop, kwargs: Mapping[str, Any]
    ) -> tuple[str | list[dict[str, Any]], dict[str, Any]]:
        """Return the engine's prompt and arguments."""
        prompt = as_prompt(messages, is_chat_model=self.engine.is_chat_model)
        return prompt, self._arguments(stop, kwargs)

    def _result(self, answer: Answer, arguments: Mapping[str, Any]) -> ChatResult:
        message = answer_message(answer, arguments.get("tools", ()), self.model_name)
        return ChatResult(generations=[ChatGeneration(message=message)])


def _parsed_json(
    model: BaseChatModel, schema: dict[str, Any] | type, *, include_raw: bool
) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
    """Read the text of answers as JSON; only a pydantic class is validated."""
    parser: BaseOutputParser[Any] = JsonOutputParser()
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        parser = PydanticOutputParser(pydantic_object=schema)
    if not include_raw:
        return model | parser
    read = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | read.with_fallbacks([failed], exception_key="parsing_error")
