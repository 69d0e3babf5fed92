"""RefragLLM: a LlamaIndex LLM that reads marked passages as vectors."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_chat_prompt
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    DocumentBlock,
    ImageBlock,
    LLMMetadata,
    MessageRole,
    VideoBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.llm import default_completion_to_prompt

from refrag_rag.errors import InputError
from refrag_rag.llama_index.owner import EngineOwner, visible_errors
from refrag_rag.threads import read_in_thread

if TYPE_CHECKING:
    from refrag_rag.answer import Answer, Delta
    from refrag_rag.engine import Refrag

Prompt = str | list[dict[str, str]]

_OPTIONS = {
    *("max_new_tokens", "stop", "temperature", "top_p", "top_k", "repetition_penalty", "seed"),
    *("question", "policy", "p"),
}
_ALIASES = {"max_tokens": "max_new_tokens", "stop_sequences": "stop"}
_ROLES = {"developer": "system", "chatbot": "assistant", "model": "assistant", "function": "tool"}
_MEDIA = (ImageBlock, AudioBlock, VideoBlock, DocumentBlock)


class RefragLLM(EngineOwner, CustomLLM):
    """LLM for query engines, chat engines and agents; spans in its prompts become vectors.

    Every answer carries its counts and timings: ``response.raw`` and
    ``response.additional_kwargs`` hold positions used, positions the plain text would have taken,
    cache hits and so on. A call takes ``max_new_tokens`` (or ``max_tokens``), ``stop``,
    ``temperature``, ``top_p``, ``top_k``, ``repetition_penalty``, ``seed``, ``p``, ``policy`` and
    ``question``; an unknown name is an `InputError`.

    Parameters
    ----------
    engine
        Built engine; or give `model_name` and `store`, and it is built on first use.
    **settings
        The fields below, and those of every LlamaIndex LLM: ``system_prompt``,
        ``messages_to_prompt`` and ``completion_to_prompt`` (each replaces the model's chat
        template), ``callback_manager``, ``output_parser``, ...
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
    p: float | None = Field(default=None, description="Expansion budget; None: the engine's.")

    def __init__(self, engine: "Refrag | None" = None, **settings: Any) -> None:
        super().__init__(engine, **settings)
        _options(self.generate_kwargs)

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
            model_name=self.model_name,
        )

    def to_payload(self) -> dict[str, Any]:
        """Describe this LLM for events; an event alone loads no model."""
        if self._engine is None:
            return {"class_name": self.class_name(), "model_name": self.model_name}
        return super().to_payload()

    def tokenizer(self) -> Callable[[str], list[int]]:
        """Tokenizer that counts a span as the positions it takes, for ``Settings.tokenizer``."""
        return self.engine.tokenize

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt; `formatted` says that it is not to be put into a template."""
        return self._complete(prompt, formatted, kwargs)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt piece by piece."""
        return self._stream_complete(prompt, formatted, kwargs)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        return self._chat(messages, kwargs)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece."""
        return self._stream_chat(messages, kwargs)

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Answer a prompt, in a thread."""
        return await asyncio.to_thread(self._complete, prompt, formatted, kwargs)

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Answer a prompt piece by piece, in a thread that stops when nobody reads on."""
        return read_in_thread(lambda: self._stream_complete(prompt, formatted, kwargs))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation, in a thread."""
        return await asyncio.to_thread(self._chat, messages, kwargs)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Answer a conversation piece by piece, in a thread that stops when nobody reads on."""
        return read_in_thread(lambda: self._stream_chat(messages, kwargs))

    @property
    def _is_chat(self) -> bool:
        return self.engine.is_chat_model if self.is_chat_model is None else self.is_chat_model

    def _complete(
        self, prompt: str, formatted: bool, kwargs: Mapping[str, Any]
    ) -> CompletionResponse:
        answer = self._generate(self._completion_prompt(prompt, formatted), kwargs)
        return CompletionResponse(text=answer.text, **_report(answer))

    def _stream_complete(
        self, prompt: str, formatted: bool, kwargs: Mapping[str, Any]
    ) -> CompletionResponseGen:
        text = ""
        for delta in self._stream(self._completion_prompt(prompt, formatted), kwargs):
            text += delta.text
            yield CompletionResponse(text=text, delta=delta.text, **_report(delta.answer))

    def _chat(self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]) -> ChatResponse:
        answer = self._generate(self._chat_prompt(messages), kwargs)
        return ChatResponse(message=_reply(answer.text), **_report(answer))

    def _stream_chat(
        self, messages: Sequence[ChatMessage], kwargs: Mapping[str, Any]
    ) -> ChatResponseGen:
        text = ""
        for delta in self._stream(self._chat_prompt(messages), kwargs):
            text += delta.text
            yield ChatResponse(message=_reply(text), delta=delta.text, **_report(delta.answer))

    def _generate(self, prompt: Prompt, kwargs: Mapping[str, Any]) -> "Answer":
        with visible_errors():
            return self.engine.generate(prompt, **self._settings(kwargs))

    def _stream(self, prompt: Prompt, kwargs: Mapping[str, Any]) -> "Iterator[Delta]":
        with visible_errors():
            yield from self.engine.stream(prompt, **self._settings(kwargs))

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of the engine: this LLM's fields, then generate_kwargs, then the call's."""
        own = {"max_new_tokens": self.max_new_tokens, "policy": self.policy, "p": self.p}
        return _options(own) | _options(self.generate_kwargs) | _options(kwargs)

    def _completion_prompt(self, prompt: str, formatted: bool) -> Prompt:
        if formatted:
            return prompt
        if self.completion_to_prompt not in (None, default_completion_to_prompt):
            return str(self.completion_to_prompt(prompt))
        if not self._is_chat:
            return f"{self.system_prompt}\n\n{prompt}" if self.system_prompt else prompt
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": prompt}]

    def _chat_prompt(self, messages: Sequence[ChatMessage]) -> Prompt:
        plain = [_plain_message(message) for message in messages]
        own_format = self.messages_to_prompt not in (None, generic_chat_prompt)
        if own_format or not self._is_chat:
            return str((self.messages_to_prompt or generic_chat_prompt)(messages))
        return plain


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under the engine's names; those that are None are left out.

    Raises
    ------
    InputError
        For a name that the engine does not take.
    """
    options = {_ALIASES.get(name, name): value for name, value in given.items()}
    sample = options.pop("do_sample", None)
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        raise InputError(
            f"unknown generation arguments {unknown}; expected some of {sorted(_OPTIONS)}. "
            "Remove them from the call or from generate_kwargs."
        )
    if sample is not None:
        options["temperature"] = (options.get("temperature") or 1.0) if sample else 0.0
    if isinstance(options.get("stop"), str):
        options["stop"] = (options["stop"],)
    return {name: value for name, value in options.items() if value is not None}


def _plain_message(message: ChatMessage) -> dict[str, str]:
    """Turn a message into role and text, with the roles that chat templates know.

    Raises
    ------
    InputError
        If it holds an image, audio, video or document: this model reads text.
    """
    media = [type(block).__name__ for block in message.blocks if isinstance(block, _MEDIA)]
    if media:
        raise InputError(
            f"a {message.role.value} message holds {media}; expected text. "
            "Leave other media out of the prompt, or use a multimodal LLM."
        )
    role = _ROLES.get(message.role.value, message.role.value)
    return {"role": role, "content": message.content or ""}


def _reply(text: str) -> ChatMessage:
    # Counts stay out of the message: memories keep messages and print what is attached to them.
    return ChatMessage(role=MessageRole.ASSISTANT, content=text)


def _report(answer: "Answer | None") -> dict[str, Any]:
    """`raw` and `additional_kwargs` of a response, plain numbers only."""
    if answer is None:
        return {}
    counts = answer.metadata()
    positions, new = answer.counts.positions, answer.counts.new_tokens
    usage = {"prompt_tokens": positions, "completion_tokens": new, "total_tokens": positions + new}
    return {"raw": {**counts, "usage": usage}, "additional_kwargs": counts}
