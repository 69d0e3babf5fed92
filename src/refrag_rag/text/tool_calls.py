"""Tool calls in the text of an answer, in the formats of the common model families. Pure text.

A format finds the calls in a whole text, and says where in a growing text one may begin; it is one
entry in `FORMATS`.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import uuid4

TOOL_MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>")
_JSON = json.JSONDecoder()


def _new_id() -> str:
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
    id: str = field(default_factory=_new_id)


@dataclass(frozen=True)
class InvalidToolCall:
    """A stretch marked as a call that cannot be read as one, marker included, and why."""

    text: str
    error: str
    id: str = field(default_factory=_new_id)


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
    stretches = min(found, key=lambda some: some[0].start)
    calls = [call for stretch in stretches for call in stretch.calls]
    invalid = [InvalidToolCall(text[s.start : s.end], s.error) for s in stretches if s.error]
    starts = [*(stretch.start for stretch in stretches[1:]), len(text)]
    after = "".join(text[s.end : start] for s, start in zip(stretches, starts, strict=True))
    before = text[: stretches[0].start]
    return ParsedAnswer(before.rstrip() + after.rstrip(), calls, invalid)


class AnswerStream:
    """Splits a streamed answer: text goes on at once, what may be a call waits for the end.

    The names of the tools are those of `parse_tool_calls`.
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


def _call(value: object) -> ToolCall:
    """Read ``{"name": ..., "arguments": {...}}``; some models say ``parameters``."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError("expected an object with the name of a function")
    arguments: Any = next((value[key] for key in ("arguments", "parameters") if key in value), {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("expected an object as arguments")
    return ToolCall(value["name"], arguments)


@dataclass(frozen=True)
class _Marked:
    """Every call, or list of calls, is JSON behind a marker of its own."""

    marker: str
    head: re.Pattern[str]
    tail: re.Pattern[str]
    read: Callable[[re.Match[str], Any], list[ToolCall]]

    def find(self, text: str, _: Collection[str] | None) -> list[Stretch]:
        """Find every head, JSON and tail. JSON is read as such: its texts may hold markers."""
        found: list[Stretch] = []
        end = 0
        while match := self.head.search(text, end):
            try:
                value, stop = _JSON.raw_decode(text, match.end())
                closed = self.tail.match(text, stop)
                if closed is None:
                    raise ValueError(f"no end of the call at character {stop - match.start()}")
                calls, error, end = self.read(match, value), "", closed.end()
            except (ValueError, RecursionError) as problem:
                calls, error = [], f"{type(problem).__name__}: {problem}"
                closing = self.tail.search(text, match.end())
                following = self.head.search(text, match.end())
                end = min(m.end() if m is closing else m.start() for m in (closing, following) if m)
            found.append(Stretch(match.start(), end, calls, error))
        return found

    def begin(self, text: str) -> int:
        """Where in a growing text the marker, or the first part of it, stands; else its end."""
        place = text.find(self.marker)
        if place < 0:
            lengths = range(len(self.marker) - 1, 0, -1)
            place = len(text) - next((n for n in lengths if text.endswith(self.marker[:n])), 0)
        return place


def _read_mistral(head: re.Match[str], value: Any) -> list[ToolCall]:
    if head[1]:
        return [_call({"name": head[1], "arguments": value})]
    return [_call(one) for one in (value if isinstance(value, list) else [value])]


class _Llama:
    """The whole answer is calls joined by semicolons, sometimes behind a tag."""

    tag = "<|python_tag|>"
    between = re.compile(r"\s*;?\s*")

    def find(self, text: str, names: Collection[str] | None) -> list[Stretch]:
        """Find one stretch; without a tag it must name tools throughout."""
        start = len(text) - len(text.lstrip())
        tagged = text.startswith(self.tag, start)
        try:
            calls = self._read(text[start:].removeprefix(self.tag))
        except (ValueError, RecursionError) as problem:
            error = f"{type(problem).__name__}: {problem}"
            return [Stretch(start, len(text), [], error)] if tagged else []
        known = tagged or names is None or all(call.name in names for call in calls)
        return [Stretch(start, len(text), calls)] if known and calls else []

    def _read(self, text: str) -> list[ToolCall]:
        calls = []
        while text := self.between.sub("", text, count=1):
            value, stop = _JSON.raw_decode(text)
            if not isinstance(value, dict) or not value.keys() & {"parameters", "arguments"}:
                raise ValueError("expected an object with parameters")
            calls.append(_call(value))
            text = text[stop:]
        return calls

    def begin(self, text: str) -> int:
        """Where the text begins, if it may be calls; else its end."""
        start = len(text) - len(text.lstrip())
        rest = text[start:]
        may_be = rest.startswith(("{", self.tag)) or self.tag.startswith(rest)
        return start if may_be else len(text)


FORMATS: dict[str, _Marked | _Llama] = {
    # Also Qwen: <tool_call>{"name": ..., "arguments": {...}}</tool_call>
    "hermes": _Marked(
        "<tool_call>",
        head=re.compile(r"<tool_call>\s*"),
        tail=re.compile(r"\s*(?:</tool_call>|\Z)"),
        read=lambda _, value: [_call(value)],
    ),
    # [TOOL_CALLS][{...}, {...}], or newer [TOOL_CALLS]name[ARGS]{...}
    "mistral": _Marked(
        "[TOOL_CALLS]",
        head=re.compile(r"\[TOOL_CALLS\]\s*(?:([\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\]\s*)?"),
        tail=re.compile(r"\s*(?:\Z|(?=\[TOOL_CALLS\]))"),
        read=_read_mistral,
    ),
    # Llama 3: {"name": ..., "parameters": {...}}
    "llama": _Llama(),
}
