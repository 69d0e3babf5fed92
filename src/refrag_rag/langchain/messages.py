"""LangChain messages to roles and texts."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage

from refrag_rag.adapters.arguments import ROLES, openai_call
from refrag_rag.errors import InputError

_KINDS = ("system", "human", "ai", "tool", "function")
# Blocks in which other providers repeat what also stands in `tool_calls`.
_CALL_BLOCKS = ("tool_use", "tool_call", "function_call")


def as_prompt(
    messages: Sequence[BaseMessage], *, is_chat_model: bool
) -> str | list[dict[str, Any]]:
    """Turn messages into what the engine takes: messages in OpenAI's shape, or one text.

    For a model without a chat template a single message is a completion prompt as it stands, and
    several are written out with their roles.

    Raises
    ------
    InputError
        If a message holds anything but text and tool calls, is of a kind without a role, or calls
        tools where there is no chat template.
    """
    plain = [_message(message) for message in messages]
    if is_chat_model or not plain:
        return plain
    if any("tool_calls" in message for message in plain):
        raise InputError(
            "A message calls tools, but the model has no chat template to write that with; "
            "expected text only. Use a model with a chat template, or leave the message out."
        )
    if len(plain) == 1:
        return str(plain[0]["content"])
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in plain]
    return "\n".join([*lines, "Assistant:"])


def _message(message: BaseMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": _role(message), "content": _text(message)}
    if message.name is not None:
        plain["name"] = message.name
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
    if isinstance(message, AIMessage):
        # What could not be read as a call goes back as the model wrote it.
        plain["content"] += "".join(call["args"] or "" for call in message.invalid_tool_calls)
        if message.tool_calls:
            plain["tool_calls"] = [
                openai_call(call["id"], call["name"], call["args"]) for call in message.tool_calls
            ]
    return plain


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return ROLES.get(message.role, message.role)
    kind = message.type.removesuffix("MessageChunk").lower()
    if kind not in _KINDS:
        raise InputError(
            f"a {type(message).__name__} came as a message; expected a system, human, AI, tool or "
            "chat message. Remove it from the prompt."
        )
    return ROLES.get(kind, kind)


def _text(message: BaseMessage) -> str:
    """Join the text of a message: a string, or a list of strings and text blocks."""
    calls = isinstance(message, AIMessage) and bool(message.tool_calls)
    for block in () if isinstance(message.content, str) else message.content:
        if isinstance(block, str):
            continue
        kind = block.get("type")
        fine = isinstance(block.get("text"), str) if kind == "text" else calls
        if not fine or kind not in ("text", *_CALL_BLOCKS):
            raise InputError(
                f"a {message.type} message holds a block of type {kind!r}; expected text. "
                "Leave other blocks out of the prompt, or use a model that reads them."
            )
    return str(message.text)
