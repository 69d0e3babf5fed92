"""Tool calls between LangChain's messages and the text that a model reads and writes."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import (
    ToolCallChunk,
    invalid_tool_call,
    tool_call,
    tool_call_chunk,
)

from refrag_rag.errors import InputError
from refrag_rag.langchain.settings import report, usage
from refrag_rag.tools import AnswerStream, ParsedAnswer, parse_tool_calls

if TYPE_CHECKING:
    from refrag_rag.answer import Answer, Delta

Tools = Sequence[Mapping[str, Any]]


def chosen_tools(tools: Tools, choice: object) -> list[Mapping[str, Any]]:
    """Tools that a ``tool_choice`` leaves to a model that cannot be forced to call one.

    Parameters
    ----------
    tools
        In OpenAI's shape.
    choice
        ``"none"``: no tool. A tool's name, or OpenAI's dict with one: that tool alone.
        ``None``, ``"auto"``, and ``"any"``, ``"required"`` or ``True``: all.

    Raises
    ------
    InputError
        If it names no tool.
    """
    if choice == "none" or choice is False:
        return []
    if choice is None or choice is True or choice in ("auto", "any", "required"):
        return list(tools)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else choice
    chosen = [tool for tool in tools if tool["function"]["name"] == name]
    if not chosen:
        raise InputError(
            f"tool_choice = {choice!r}; expected auto, any, none or the name of one of "
            f"{tool_names(tools)}."
        )
    return chosen


def tool_names(tools: Tools) -> list[str]:
    """Names of tools in OpenAI's shape."""
    return [tool["function"]["name"] for tool in tools]


def answer_message(answer: "Answer", tools: Tools, model_name: str) -> AIMessage:
    """Build the message of a whole answer; it is searched for calls if there were tools."""
    parsed = ParsedAnswer(answer.text, [], [])
    if tools:
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


class ChunkMaker:
    """Makes the message chunks of a streamed answer.

    Text goes on as it comes; what may be a call waits for the end, and comes as whole calls.

    Parameters
    ----------
    tools
        In OpenAI's shape; without any, nothing is held back.
    model_name
        For the response metadata.
    """

    def __init__(self, tools: Tools, model_name: str) -> None:
        self._stream = AnswerStream(tool_names(tools)) if tools else None
        self._model_name = model_name

    def chunk(self, delta: "Delta") -> AIMessageChunk | None:
        """Return the chunk for a piece of the answer, unless all of it is held back."""
        text = delta.text if self._stream is None else self._stream.add(delta.text)
        if delta.answer is None:
            return AIMessageChunk(content=text) if text else None
        rest = ParsedAnswer("", [], []) if self._stream is None else self._stream.finish()
        # Chunks are added up by their readers: counts stand on the last one alone.
        return AIMessageChunk(
            content=text + rest.text,
            tool_call_chunks=_call_chunks(rest),
            usage_metadata=usage(delta.answer),
            response_metadata=report(delta.answer, self._model_name),
            chunk_position="last",
        )


def _call_chunks(parsed: ParsedAnswer) -> list[ToolCallChunk]:
    """Calls as chunks; LangChain parses them again, and cannot read the invalid ones either."""
    valid = [(call.name, json.dumps(call.arguments), call.id) for call in parsed.calls]
    invalid = [(None, call.text, call.id) for call in parsed.invalid]
    return [
        tool_call_chunk(name=name, args=args, id=id_, index=index)
        for index, (name, args, id_) in enumerate([*valid, *invalid])
    ]
