"""Tool calls in the text of an answer, in the formats of the common model families. Pure text.

A format is a function that finds the calls in a whole text, and what its calls begin with; it is
one entry in `FORMATS`.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from uuid import uuid4

TOOL_MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>")
_JSON = json.JSONDecoder()


def new_id() -> str:
    """A fresh id of nine letters and digits: the only shape that every chat template takes."""
    return uuid4().hex[:9]


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asks for.

    Attributes
    ----------
    name, arguments
        The function and what it is called with. Nothing is checked against the tools.
    id
        Ties the tool's result to the call; no other call has it.
    """

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=new_id)


@dataclass(frozen=True)
class InvalidToolCall:
    """A stretch marked as a call that cannot be read as one.

    Attributes
    ----------
    text
        The stretch as it was written, marker included.
    error
        What is wrong with it.
    """

    text: str
    error: str
    id: str = field(default_factory=new_id)


class ParsedAnswer(NamedTuple):
    """An answer's text apart from its calls."""

    text: str
    calls: list[ToolCall]
    invalid: list[InvalidToolCall]


class Stretch(NamedTuple):
    """Characters of a text that hold calls, or one that cannot be read."""

    start: int
    end: int
    calls: list[ToolCall]
    error: str = ""


class Format(NamedTuple):
    """How a family of models writes calls.

    Attributes
    ----------
    find
        Finds the stretches, in order, given the names of the tools.
    begin
        Where in a growing text a call begins or may be about to; its length if nowhere.
    """

    find: Callable[[str, Collection[str] | None], list[Stretch]]
    begin: Callable[[str], int]


def parse_tool_calls(text: str, names: Collection[str] | None = None) -> ParsedAnswer:
    """Find the tool calls in an answer.

    Parameters
    ----------
    text
        The whole answer.
    names
        Names of the tools; without a marker of its own, JSON counts as a call only if it names one
        of them. None: any name will do. Without a tool, nothing is a call.

    Returns
    -------
    ParsedAnswer
        The text without its calls (the text itself, if there are none), the calls, and what was
        marked as a call and cannot be read. One answer is read in one format: the one that finds
        something first, as what stands in the arguments of its calls is no call.
    """
    formats = FORMATS.values() if _offered(names) else ()
    found = [stretches for style in formats if (stretches := style.find(text, names))]
    if not found:
        return ParsedAnswer(text, [], [])
    return _apart(text, min(found, key=lambda stretches: stretches[0].start))


class AnswerStream:
    """Splits a streamed answer: text goes on at once, what may be a call waits for the end.

    Parameters
    ----------
    names
        See `parse_tool_calls`.
    """

    def __init__(self, names: Collection[str] | None = None) -> None:
        self._names, self._text, self._shown = names, "", 0

    def add(self, text: str) -> str:
        """Take a piece; give the text that is certainly no part of a call."""
        self._text += text
        end = len(self._text)
        if _offered(self._names):
            end = min(style.begin(self._text) for style in FORMATS.values())
            end = len(self._text[:end].rstrip())  # white space before a call goes with the call
        fresh = self._text[self._shown : end]
        self._shown = max(self._shown, end)
        return fresh

    def finish(self) -> ParsedAnswer:
        """Give the rest; joined with what `add` gave it is what `parse_tool_calls` finds."""
        parsed = parse_tool_calls(self._text, self._names)
        return parsed._replace(text=parsed.text[self._shown :])


def _offered(names: Collection[str] | None) -> bool:
    return names is None or bool(names)


def _apart(text: str, stretches: list[Stretch]) -> ParsedAnswer:
    calls = [call for stretch in stretches for call in stretch.calls]
    invalid = [InvalidToolCall(text[s.start : s.end], s.error) for s in stretches if s.error]
    ends = [stretch.end for stretch in stretches]
    starts = [*(stretch.start for stretch in stretches[1:]), len(text)]
    after = "".join(text[a:b] for a, b in zip(ends, starts, strict=True))
    before = text[: stretches[0].start]
    return ParsedAnswer(before.rstrip() + after.rstrip(), calls, invalid)


def _call(value: object) -> ToolCall:
    """Read ``{"name": ..., "arguments": {...}}``; some models say ``parameters``.

    Raises
    ------
    ValueError
        If it is not of this shape.
    """
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError("expected an object with the name of a function")
    arguments: Any = next((value[key] for key in ("arguments", "parameters") if key in value), {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("expected an object as arguments")
    return ToolCall(value["name"], arguments)


def _begin_of(marker: str, text: str) -> int:
    """Where a marker, or the first part of one at the end, stands in a growing text."""
    if (place := text.find(marker)) >= 0:
        return place
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return len(text) - length
    return len(text)


def _marked(
    text: str,
    head: re.Pattern[str],
    tail: re.Pattern[str],
    read: Callable[[re.Match[str], Any], list[ToolCall]],
) -> list[Stretch]:
    """Find every `head`, JSON and `tail`. JSON is read as such: its texts may hold markers."""
    found: list[Stretch] = []
    end = 0
    while match := head.search(text, end):
        try:
            value, stop = _JSON.raw_decode(text, match.end())
            closed = tail.match(text, stop)
            if closed is None:
                raise ValueError(f"no end of the call at character {stop - match.start()}")
            calls, error, end = read(match, value), "", closed.end()
        except (ValueError, RecursionError) as problem:
            calls, error = [], f"{type(problem).__name__}: {problem}"
            closing = tail.search(text, match.end())
            following = head.search(text, match.end())
            end = min(m.end() if m is closing else m.start() for m in (closing, following) if m)
        found.append(Stretch(match.start(), end, calls, error))
    return found


# Hermes, Qwen: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, a marker pair each call.

_HERMES_HEAD, _HERMES_TAIL = re.compile(r"<tool_call>\s*"), re.compile(r"\s*(?:</tool_call>|\Z)")


def _hermes(text: str, _: Collection[str] | None) -> list[Stretch]:
    return _marked(text, _HERMES_HEAD, _HERMES_TAIL, lambda _head, value: [_call(value)])


# Mistral: [TOOL_CALLS][{...}, {...}], or newer [TOOL_CALLS]name[ARGS]{...}, a marker each call.

_MISTRAL_HEAD = re.compile(
    r"\[TOOL_CALLS\]\s*(?:([\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\]\s*)?",
)
_MISTRAL_TAIL = re.compile(r"\s*(?:\Z|(?=\[TOOL_CALLS\]))")


def _mistral(text: str, _: Collection[str] | None) -> list[Stretch]:
    return _marked(text, _MISTRAL_HEAD, _MISTRAL_TAIL, _read_mistral)


def _read_mistral(head: re.Match[str], value: Any) -> list[ToolCall]:
    if head[1]:
        return [_call({"name": head[1], "arguments": value})]
    return [_call(one) for one in (value if isinstance(value, list) else [value])]


# Llama 3: the whole answer is {"name": ..., "parameters": {...}}, several joined by semicolons,
# sometimes behind a tag.

_LLAMA_TAG = "<|python_tag|>"
_LLAMA_BETWEEN = re.compile(r"\s*;?\s*")


def _llama(text: str, names: Collection[str] | None) -> list[Stretch]:
    start = len(text) - len(text.lstrip())
    tagged = text.startswith(_LLAMA_TAG, start)
    try:
        calls = _read_llama(text, start + len(_LLAMA_TAG) * tagged)
    except (ValueError, RecursionError) as problem:
        error = f"{type(problem).__name__}: {problem}"
        return [Stretch(start, len(text), [], error)] if tagged else []
    known = tagged or names is None or all(call.name in names for call in calls)
    return [Stretch(start, len(text), calls)] if known and calls else []


def _read_llama(text: str, start: int) -> list[ToolCall]:
    calls = []
    place = _LLAMA_BETWEEN.match(text, start).end()  # type: ignore[union-attr]  # always matches
    while place < len(text):
        value, place = _JSON.raw_decode(text, place)
        if not isinstance(value, dict) or not value.keys() & {"parameters", "arguments"}:
            raise ValueError("expected an object with parameters")
        calls.append(_call(value))
        place = _LLAMA_BETWEEN.match(text, place).end()  # type: ignore[union-attr]
    return calls


def _llama_begin(text: str) -> int:
    start = len(text) - len(text.lstrip())
    rest = text[start:]
    if rest.startswith(("{", _LLAMA_TAG)) or _LLAMA_TAG.startswith(rest):
        return start
    return len(text)


FORMATS = {
    "hermes": Format(_hermes, partial(_begin_of, "<tool_call>")),
    "mistral": Format(_mistral, partial(_begin_of, "[TOOL_CALLS]")),
    "llama": Format(_llama, _llama_begin),
}
