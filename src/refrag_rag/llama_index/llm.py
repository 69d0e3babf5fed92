"""RefragLLM: a LlamaIndex LLM that reads marked passages as vectors."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_chat_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection, default_completion_to_prompt
from llama_index.core.tools.types import BaseTool

from refrag_rag.adapters.arguments import check_defaults, choose_tools, tool_names
from refrag_rag.adapters.engine import EngineOwner
from refrag_rag.engine import Refrag
from refrag_rag.errors import RefragError
from refrag_rag.generation.answer import Answer, Delta
from refrag_rag.generation.request import ALIASES, SAMPLING, known_arguments
from refrag_rag.generation.threads import read_in_thread
from refrag_rag.llama_index.events import send
from refrag_rag.llama_index.messages import (
    chat_response,
    chat_responses,
    plain_messages,
    report,
    tool_selections,
)
from refrag_rag.text.chat_template import Prompt

logger = logging.getLogger(__name__)
UNCOUNTED = (
    "LlamaIndex counts passages by their full text, and spreads them over several calls where that "
    "fills the window. Set Settings.tokenizer = llm.tokenizer(), which counts the positions that "
    "they take."
)
Response = TypeVar("Response", CompletionResponse, ChatResponse)


class RefragLLM(EngineOwner, FunctionCallingLLM):
    """LLM for query engines, chat engines and agents; spans in its prompts become vectors.

    Every answer carries its counts and timings in ``response.raw`` and
    ``response.additional_kwargs``. A call takes ``max_new_tokens`` (or ``max_tokens``), ``stop``,
    ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``seed``, ``p``, ``policy`` and
    ``question``; an unknown name is an `InputError`.

    It calls functions where the model's chat template has a place for tools; elsewhere
    ``metadata.is_function_calling_model`` is False and giving it tools is an `InputError`.

    Give it an engine, or `model_name` and `store` of one that is loaded on first use, and defaults
    for what a call may give. ``messages_to_prompt`` and ``completion_to_prompt`` replace the
    model's chat template.
    """

    context_window: int | None = Field(
        default=None, gt=0, description="Window to report; None: the decoder's true one."
    )
    max_new_tokens: int = Field(default=64, gt=0, description="Longest answer, in tokens.")
    generate_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Defaults for what a call may give."
    )
    is_chat_model: bool | None = Field(default=None, description="None: as the model is.")
    policy: str | None = Field(default=None, description="None: the engine's.")
    p: float | None = Field(
        default=None, description="Share of chunks to expand; None: the engine's."
    )

    _counting: bool = PrivateAttr(default=False)

    def __init__(self, engine: Refrag | None = None, **settings: Any) -> None:
        named = {name for name in settings if ALIASES.get(name, name) in SAMPLING}
        given = _arguments({name: settings.pop(name) for name in named})
        if "max_new_tokens" in given:
            settings["max_new_tokens"] = given.pop("max_new_tokens")
        settings["generate_kwargs"] = _arguments(settings.get("generate_kwargs", {})) | given
        super().__init__(engine, **settings)
        check_defaults(self._hold().loaded, **self._settings({}))

    @classmethod
    def class_name(cls) -> str:
        """Name in events."""
        return "RefragLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Window, output length and kind of the model; builds the engine if need be."""
        return LLMMetadata(
            context_window=self.context_window or self.engine.context_window,
            num_output=self.max_new_tokens,
            is_chat_model=self._is_chat,
            is_function_calling_model=self._uses_template and self.engine.takes_tools,
            model_name=self.model_name,
        )

    def to_payload(self) -> dict[str, Any]:
        """Describe this LLM for events; an event alone loads no model."""
        if self._hold().loaded is None:
            return {"class_name": self.class_name(), "model_name": self.model_name}
        return super().to_payload()

    def tokenizer(self) -> Callable[[str], list[int]]:
        """Tokenizer that counts a span as the positions it takes, for ``Settings.tokenizer``."""
        self._counting = True
        return self.engine.tokenize

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt; `formatted` says that it is not to be put into a template."""
        answer = self._generate(self._completion_prompt(prompt, formatted), kwargs)
        return CompletionResponse(text=answer.text, **report(answer))

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        return self._stream_complete(prompt, formatted, kwargs)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        options, names, parallel = self._tool_options(kwargs)
        answer = self._generate(self._chat_prompt(messages), options)
        return chat_response(answer, names, parallel=parallel)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece."""
        return self._stream_chat(messages, kwargs)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt, in a thread that stops when nobody waits for it."""
        return await _last(read_in_thread(lambda: self._stream_complete(prompt, formatted, kwargs)))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece, in a thread that stops when nobody reads on."""
        return read_in_thread(lambda: self._stream_complete(prompt, formatted, kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation, in a thread that stops when nobody waits for it."""
        return await _last(read_in_thread(lambda: self._stream_chat(messages, kwargs)))

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece, in a thread that stops when nobody reads on."""
        return read_in_thread(lambda: self._stream_chat(messages, kwargs))

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Read the tool calls of a response; if one is needed and there is none: `RefragError`."""
        return tool_selections(response.message, needed=error_on_no_tool_call)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of `chat`. A template cannot force a call: `tool_required` stays a wish."""
        described = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        asked = ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg
        return {
            "messages": [*(chat_history or ()), *([asked] if asked else ())],
            "tools": choose_tools(described, tool_choice) or None,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    @property
    def _is_chat(self) -> bool:
        return self.engine.is_chat_model if self.is_chat_model is None else self.is_chat_model

    def _stream_complete(
        self, prompt: str, formatted: bool, kwargs: Mapping[str, Any]
    ) -> CompletionResponseGen:
        text = ""
        for delta in self._stream(self._completion_prompt(prompt, formatted), kwargs):
            text += delta.text
            yield CompletionResponse(text=text, delta=delta.text, **report(delta.answer))

    def _stream_chat(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> ChatResponseGen:
        options, names, parallel = self._tool_options(kwargs)
        deltas = self._stream(self._chat_prompt(messages), options)
        yield from chat_responses(deltas, names, parallel=parallel)

    def _tool_options(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], bool]:
        """A call's other arguments, the names of its tools, and whether it may call several."""
        options = dict(kwargs)
        parallel = options.pop("parallel_tool_calls", True)
        return options, tool_names((self.generate_kwargs | options).get("tools")), parallel

    def _generate(self, prompt: Prompt, kwargs: Mapping[str, Any]) -> Answer:
        with _visible_errors():
            answer = self.engine.generate(prompt, **self._settings(kwargs))
        self._report(answer)
        return answer

    def _stream(self, prompt: Prompt, kwargs: Mapping[str, Any]) -> Iterator[Delta]:
        with _visible_errors():
            for delta in self.engine.stream(prompt, **self._settings(kwargs)):
                if delta.answer is not None:
                    self._report(delta.answer)
                yield delta

    def _report(self, answer: Answer) -> None:
        send(answer)
        if self._counting or not answer.counts.spans:
            return
        if 2 * answer.counts.plain_positions > (self.context_window or self.engine.context_window):
            self._counting = True  # told once
            logger.warning(UNCOUNTED)

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the engine: this LLM's fields, then generate_kwargs, then the call's."""
        own = {"max_new_tokens": self.max_new_tokens, "policy": self.policy, "p": self.p}
        return _arguments(own) | _arguments(self.generate_kwargs) | _arguments(kwargs)

    def _completion_prompt(self, prompt: str, formatted: bool) -> Prompt:
        if formatted:
            return prompt
        if self.completion_to_prompt not in (None, default_completion_to_prompt):
            return str(self.completion_to_prompt(prompt))
        if not self._is_chat:
            return f"{self.system_prompt}\n\n{prompt}" if self.system_prompt else prompt
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": prompt}]

    @property
    def _uses_template(self) -> bool:
        """Whether conversations go through the model's chat template."""
        return self._is_chat and self.messages_to_prompt in (None, generic_chat_prompt)

    def _chat_prompt(self, messages: Sequence[ChatMessage]) -> Prompt:
        plain = plain_messages(messages)
        if self._uses_template:
            return plain
        return str((self.messages_to_prompt or generic_chat_prompt)(messages))


@contextmanager
def _visible_errors() -> Iterator[None]:
    """LlamaIndex's synthesizers swallow these, and the answer becomes "Empty Response"."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise RefragError(f"{type(error).__name__} in the model: {error}") from error


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under the engine's names; those that are None are left out."""
    options = dict(given)
    sample = options.pop("do_sample", None)  # as Hugging Face's LLMs are told
    options = known_arguments(options)
    if sample is not None:
        options["temperature"] = (options.get("temperature") or 1.0) if sample else 0.0
    return {name: value for name, value in options.items() if value is not None}


async def _last(responses: AsyncGenerator[Response, None]) -> Response:
    """Read a stream to its end; its last response, which holds everything, is the answer."""
    async with aclosing(responses):
        found = [response async for response in responses]
    return found[-1].model_copy(update={"delta": None})
