"""LangChain messages to roles and texts."""

from collections.abc import Sequence

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from refrag_rag.errors import InputError

_KINDS: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
_ROLES = {"human": "user", "ai": "assistant", "developer": "system", "function": "tool"}


def as_prompt(
    messages: Sequence[BaseMessage], *, is_chat_model: bool
) -> str | list[dict[str, str]]:
    """Turn messages into what the engine takes.

    Parameters
    ----------
    is_chat_model
        Whether the model has a chat template. Without one, a single message is a completion
        prompt as it stands, and several are written out with their roles.

    Raises
    ------
    InputError
        If a message holds anything but text, or is of a kind without a role.
    """
    plain = [{"role": _role(message), "content": _text(message)} for message in messages]
    if is_chat_model or not plain:
        return plain
    if len(plain) == 1:
        return plain[0]["content"]
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in plain]
    return "\n".join([*lines, "Assistant:"])


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return _ROLES.get(message.role, message.role)
    for kind, role in _KINDS:
        if isinstance(message, kind):
            return role
    raise InputError(
        f"a {type(message).__name__} came as a message; expected a system, human, AI, tool or "
        "chat message. Remove it from the prompt."
    )


def _text(message: BaseMessage) -> str:
    """Join the text of a message: a string, or a list of strings and text blocks."""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        text = block if isinstance(block, str) else block.get("text")
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind != "text" or not isinstance(text, str):
            raise InputError(
                f"a {message.type} message holds a block of type {kind!r}; expected text. "
                "Leave other blocks out of the prompt, or use a model that reads them."
            )
        texts.append(text)
    return "".join(texts)
