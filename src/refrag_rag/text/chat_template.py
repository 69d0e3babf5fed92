"""Messages and tools through the decoder's chat template."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from refrag_rag.errors import InputError
from refrag_rag.spans import strip_spans

Message = Mapping[str, Any]
"""``role`` and ``content``, and whatever else the chat template reads."""
Tool = Mapping[str, Any]
"""A function that the model may call, in OpenAI's shape."""
Prompt = str | Sequence[Message]
"""A completion prompt, or a conversation."""


def takes_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template has a place for tools."""
    return bool(tokenizer.chat_template) and _mentions(tokenizer, "tools")


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates read them.

    The arguments of tool calls become objects, where they were JSON text. Markers of spans are left
    in ``content`` only: nothing else can hold a span.

    Parameters
    ----------
    messages
        ``role`` and ``content``; of an assistant ``tool_calls`` in OpenAI's shape (then there need
        be no content), of a tool ``tool_call_id`` and ``name``. Further keys reach the template.

    Raises
    ------
    InputError
        If there are none, one is not of this shape, or the last one is an empty question.
    """
    if not isinstance(messages, Sequence):
        raise InputError(f"prompt = {messages!r:.80}; expected text or a list of messages.")
    if not messages:
        raise InputError("No messages; expected at least one.")
    checked = [_check_message(message) for message in messages]
    if checked[-1]["role"] == "user" and not checked[-1]["content"].strip():
        raise InputError("The last message is empty; expected a question.")
    return checked


def check_tools(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Tools, without markers of spans; one that has not OpenAI's shape is an `InputError`."""
    if isinstance(tools, str | Mapping) or not isinstance(tools or (), Sequence):
        raise InputError(f"tools = {tools!r}; expected a list of functions.")
    for tool in tools or ():
        if _function(tool) is None:
            raise InputError(
                f"Tool {tool!r}; expected {{'type': 'function', 'function': {{'name': ..., "
                "'description': ..., 'parameters': a JSON schema}}."
            )
    return [_without_markers(dict(tool)) for tool in tools or ()]


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: Sequence[Tool] = ()
) -> str:
    """Write messages and tools out, up to where the assistant's answer begins.

    Raises
    ------
    InputError
        If there is no chat template, it has no place for the tools or tool calls, or it refuses
        the messages.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "The decoder has no chat template; expected a plain prompt. Pass a string."
        )
    calls = any(message.get("tool_calls") for message in messages)
    for given, name in ((tools, "tools"), (calls, "tool_calls")):
        if given and not _mentions(tokenizer, name, tools=bool(tools)):
            raise InputError(
                f"The decoder's chat template does not mention {name}: it would leave them out. "
                "Use a model that was trained with tools, or leave them out of the call."
            )
    options = {"tools": list(tools) or None, "tokenize": False, "add_generation_prompt": True}
    try:
        return str(tokenizer.apply_chat_template(list(messages), **options))
    except (TemplateError, TypeError, ValueError) as error:
        roles = [message["role"] for message in messages]
        raise InputError(
            f"The decoder's chat template refuses messages with the roles {roles}: {error} "
            "Bring them into an order and a shape that it takes."
        ) from error


def texts_in(value: object) -> list[str]:
    """Every text inside messages or tools, keys too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.items() for part in item for text in texts_in(part)]
    if isinstance(value, Sequence):
        return [text for part in value for text in texts_in(part)]
    return []


def _mentions(tokenizer: PreTrainedTokenizerBase, name: str, *, tools: bool = True) -> bool:
    template = str(tokenizer.get_chat_template(tools=[{}] if tools else None))
    return re.search(rf"\b{name}\b", template) is not None


def _check_message(message: Message) -> dict[str, Any]:
    rest = dict(message) if isinstance(message, Mapping) else {}
    calls, content = rest.pop("tool_calls", None), rest.pop("content", None)
    if content is None and calls:
        content = ""
    if not isinstance(rest.get("role"), str) or not isinstance(content, str):
        raise InputError(
            f"Message {message!r}; expected a mapping with 'role' and 'content', both text."
        )
    checked = {**_without_markers(rest), "content": content}
    if calls:
        checked["tool_calls"] = [_without_markers(_check_call(call)) for call in calls]
    return checked


def _function(value: object) -> Mapping[str, Any] | None:
    """The function that a tool or a call names, if it has OpenAI's shape."""
    function = value.get("function") if isinstance(value, Mapping) else None
    named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
    return function if named else None


def _check_call(call: Any) -> dict[str, Any]:
    function = _function(call)
    if function is None:
        raise InputError(
            f"Tool call {call!r}; expected {{'id': ..., 'type': 'function', 'function': "
            "{'name': ..., 'arguments': ...}}."
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError):  # what a model wrote wrongly goes back as it was written
            arguments = json.loads(arguments)
    shaped = {**function, "arguments": arguments}
    return {"type": "function", **call, "function": shaped}


def _without_markers(value: Any) -> Any:
    if isinstance(value, str):
        return strip_spans(value)
    if isinstance(value, Mapping):
        return {_without_markers(key): _without_markers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_markers(item) for item in value]
    return value
