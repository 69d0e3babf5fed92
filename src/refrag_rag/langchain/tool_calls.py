"""Tool calls between LangChain's messages and the text that a model reads and writes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import (
    ToolCallChunk,
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)

from refrag_rag.adapters.arguments import tool_names
from refrag_rag.generation.answer import Answer, Delta
from refrag_rag.langchain.settings import report, usage
from refrag_rag.text.tool_calls import AnswerStream, ParsedAnswer, parse_tool_calls

Tools = Sequence[Mapping[str, Any]]


def answer_message(answer: Answer, tools: Tools, model_name: str) -> AIMessage:
    """Build the message of a whole answer; it is searched for calls if there were tools."""
    parsed = parse_tool_calls(answer.text, tool_names(tools))
    return AIMessage(
        content=parsed.text,
        tool_calls=[tool_call(name=c.name, args=c.arguments, id=c.id) for c in parsed.calls],
        invalid_tool_calls=[
            invalid_tool_call(name=None, args=call.text, id=call.id, error=call.error)
            for call in parsed.invalid
        ],
        usage_metadata=usage(answer),
        response_metadata=report(answer, model_name),
    )


def message_chunks(
    deltas: Iterator[Delta], tools: Tools, model_name: str
) -> Iterator[AIMessageChunk]:
    """Make the chunks of a streamed answer.

    Text goes on as it comes; what may be a call waits for the end, and comes as whole calls.
    """
    stream = AnswerStream(tool_names(tools))
    for delta in deltas:
        text = stream.add(delta.text)
        if delta.answer is not None:
            rest = stream.finish()
            # Chunks are added up by their readers: counts stand on the last one alone.
            yield AIMessageChunk(
                content=text + rest.text,
                tool_call_chunks=_call_chunks(rest),
                usage_metadata=usage(delta.answer),
                response_metadata=report(delta.answer, model_name),
                chunk_position="last",
            )
        elif text:
            yield AIMessageChunk(content=text)


def _call_chunks(parsed: ParsedAnswer) -> list[ToolCallChunk]:
    """Calls as chunks; LangChain parses them again, and cannot read the invalid ones either."""
    valid = [(call.name, json.dumps(call.arguments), call.id) for call in parsed.calls]
    invalid = [(None, call.text, call.id) for call in parsed.invalid]
    return [
        tool_call_chunk(name=name, args=args, id=id_, index=index)
        for index, (name, args, id_) in enumerate([*valid, *invalid])
    ]
