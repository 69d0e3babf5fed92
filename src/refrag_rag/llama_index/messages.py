"""Chat messages of LlamaIndex, to the shape that chat templates read and back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms.llm import ToolSelection

from refrag_rag.adapters.arguments import ROLES, openai_call
from refrag_rag.errors import InputError, RefragError
from refrag_rag.generation.answer import Answer, Delta
from refrag_rag.text.tool_calls import AnswerStream, ParsedAnswer, parse_tool_calls

_MEDIA = (ImageBlock, AudioBlock, VideoBlock, DocumentBlock)


def plain_messages(messages: Iterable[ChatMessage]) -> list[dict[str, Any]]:
    """Turn messages into role, text and tool calls, with the roles that chat templates know.

    A tool's result carries the name of the tool whose call it answers.

    Raises
    ------
    InputError
        If one holds an image, audio, video or document: this model reads text.
    """
    plain = []
    names: dict[str, str] = {}  # of tools, by the id of the call
    for message in messages:
        calls = _openai_calls(message)
        for call in calls:
            if isinstance(call.get("id"), str) and isinstance(call.get("function"), Mapping):
                names[call["id"]] = call["function"].get("name")
        plain.append(_plain_message(message, calls, names))
    return plain


def chat_response(answer: Answer, names: Sequence[str], *, parallel: bool) -> ChatResponse:
    """Make the response of a whole answer; only the first call is kept, if not `parallel`."""
    message = _reply(parse_tool_calls(answer.text, names), parallel=parallel)
    return ChatResponse(message=message, **report(answer))


def chat_responses(
    deltas: Iterator[Delta], names: Sequence[str], *, parallel: bool
) -> ChatResponseGen:
    """Text at once; what may be a call is held back, and the calls come with the last piece."""
    stream, text = AnswerStream(names), ""
    for delta in deltas:
        piece = stream.add(delta.text)
        if delta.answer is None:
            text += piece
            message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
            yield ChatResponse(message=message, delta=piece)
            continue
        rest = stream.finish()
        message = _reply(rest._replace(text=text + piece + rest.text), parallel=parallel)
        last = (message.content or "")[len(text) :]
        yield ChatResponse(message=message, delta=last, **report(delta.answer))


def tool_selections(message: ChatMessage, *, needed: bool) -> list[ToolSelection]:
    """Read the tool calls of a message; if one is `needed` and there is none: `RefragError`."""
    found = [
        ToolSelection(
            tool_id=block.tool_call_id or "",
            tool_name=block.tool_name,
            tool_kwargs=cast(dict[str, Any], block.tool_kwargs),
        )
        for block in message.blocks
        if isinstance(block, ToolCallBlock)
    ]
    if needed and not found:
        raise RefragError(
            f"The model called no tool and answered {message.content!r}; expected a call. A chat "
            "template cannot force one: ask again, allow more new tokens, or use a stronger model."
        )
    return found


def report(answer: Answer | None) -> dict[str, Any]:
    """`raw` and `additional_kwargs` of a response, plain numbers only."""
    if answer is None:
        return {}
    counts = answer.metadata()
    positions, new = answer.counts.positions, answer.counts.new_tokens
    usage = {"prompt_tokens": positions, "completion_tokens": new, "total_tokens": positions + new}
    return {"raw": {**counts, "usage": usage}, "additional_kwargs": counts}


def _reply(answer: ParsedAnswer, *, parallel: bool) -> ChatMessage:
    """Make the assistant's message. What was marked as a call and cannot be read stays text.

    Counts stay out of it: memories keep messages and print what is attached to them.
    """
    text = "\n".join(filter(None, [answer.text, *(call.text for call in answer.invalid)]))
    calls: list[Any] = [
        ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments)
        for call in (answer.calls if parallel else answer.calls[:1])
    ]
    blocks = [TextBlock(text=text), *calls] if text or not calls else calls
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
    if calls:  # LlamaIndex's structured streams look for them there
        message.additional_kwargs["tool_calls"] = _openai_calls(message)
    return message


def _plain_message(
    message: ChatMessage, calls: list[dict[str, Any]], names: Mapping[str, str]
) -> dict[str, Any]:
    media = [type(block).__name__ for block in message.blocks if isinstance(block, _MEDIA)]
    if media:
        raise InputError(
            f"a {message.role.value} message holds {media}; expected text. "
            "Leave other media out of the prompt, or use a multimodal LLM."
        )
    role = ROLES.get(message.role.value, message.role.value)
    plain: dict[str, Any] = {"role": role, "content": message.content or ""}
    if calls:
        plain["tool_calls"] = calls
    if role == "tool" and (call := message.additional_kwargs.get("tool_call_id")):
        plain["tool_call_id"] = call
        if name := message.additional_kwargs.get("name") or names.get(call):
            plain["name"] = name
    return plain


def _openai_calls(message: ChatMessage) -> list[dict[str, Any]]:
    """Tool calls in OpenAI's shape; older code keeps them in that shape beside the message."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if not blocks:
        older = message.additional_kwargs.get("tool_calls") or ()
        return [dict(call) if isinstance(call, Mapping) else call.model_dump() for call in older]
    return [
        openai_call(block.tool_call_id or "", block.tool_name, block.tool_kwargs)
        for block in blocks
    ]
