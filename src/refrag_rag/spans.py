"""Compressible spans: stretches of prompt text between two light markers. Pure text.

The markers survive templates, HTML and JSON, and nothing in them is trusted: a span is found by
its text alone. Text that contains markers itself is neutralised when it is wrapped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

OPEN, CLOSE = "[[refrag]]", "[[/refrag]]"
# What the adapters log once, as they cannot see which LLM will read the prompt.
MARKED = (
    "Passages are marked for RefragLLM or ChatRefrag. Any other LLM reads their full text between "
    "two markers; output='text' shortens it for such an LLM."
)
_MARKER = re.compile(r"\[\[(/?)refrag([^\[\]\n]{0,80})\]\]")
_LOOKALIKE = re.compile(r"\[\[(?=/?refrag)", re.IGNORECASE)
_LARGEST = 10**12  # the longest score that a marker holds
_HINTS = re.compile(r"(?: score=(-?\d{1,12}(?:\.\d{1,12})?))?(?: metadata=(\d{1,9}))?")


@dataclass(frozen=True)
class Span:
    """A compressible stretch of a text.

    Attributes
    ----------
    start, end
        Character positions of the whole stretch in the searched text, markers included.
    text
        What stands between the markers.
    score
        The retrieval score, where the opening marker carries a valid one.
    metadata
        How many characters at the start of `text` are metadata, by the marker.
    """

    start: int
    end: int
    text: str
    score: float | None = None
    metadata: int = 0


def wrap(text: str, *, score: float | None = None, metadata: int = 0) -> str:
    """Mark `text` as compressible. Text without any word in it is returned as it is.

    Parameters
    ----------
    text
        A passage; markers in it are neutralised.
    score
        Retrieval score, kept with six digits; NaN and what is too large to write are left out.
    metadata
        How many characters at the start of `text` are metadata, to be counted apart.
    """
    if not text.strip():
        return text
    hint = "" if score is None or not abs(score) < _LARGEST else f" score={score:.6f}"
    if metadata:
        hint += f" metadata={len(neutralise(text[:metadata]))}"
    return f"[[refrag{hint}]]{neutralise(text)}{CLOSE}"


def compressible(text: str) -> str:
    """Mark text by hand, anywhere in a prompt."""
    return wrap(text)


def neutralise(text: str, markup: tuple[str, str] | None = None) -> str:
    """Make markers in a document harmless: ``[[refrag`` becomes ``[ [refrag``.

    So do those of a model's own `markup`, where the text will not stand in a span.
    """
    for marker in markup or ():
        text = text.replace(marker, f"{marker[0]} {marker[1:]}")
    return _LOOKALIKE.sub("[ [", text)


def find_spans(text: str) -> list[Span]:
    """Find all well-formed spans.

    An opening marker before the last one was closed restarts the span; one that is never closed
    is plain text, and so is a span without any word in it.
    """
    found: list[Span] = []
    opened: re.Match[str] | None = None
    for marker in _MARKER.finditer(text):
        if not marker[1]:
            opened = marker
        elif opened is not None:
            inner = text[opened.end() : marker.start()]
            if inner.strip():
                found.append(Span(opened.start(), marker.end(), inner, *_hints(opened[2])))
            opened = None
    return found


def split_spans(text: str, markup: tuple[str, str] | None = None) -> list[str | Span]:
    """Cut a text into spans and the text between them, without markers that belong to no span.

    Parameters
    ----------
    text
        Prompt text.
    markup
        Another pair of markers, which a model was trained with; they count outside spans only, so
        that a passage can contain them without any effect. A first one within such a span is text.
    """
    pieces = list(_pieces(text))
    if markup is None:
        return pieces
    return [
        part
        for piece in pieces
        for part in (_foreign(piece, markup) if isinstance(piece, str) else [piece])
    ]


def strip_spans(text: str) -> str:
    """Remove every marker; the text between them stays."""
    while (stripped := _MARKER.sub("", text)) != text:  # a removal can bring a marker together
        text = stripped
    return text


def _pieces(text: str) -> Iterator[str | Span]:
    end = 0
    for span in find_spans(text):
        if before := strip_spans(text[end : span.start]):
            yield before
        yield span
        end = span.end
    if after := strip_spans(text[end:]):
        yield after


def _foreign(text: str, markup: tuple[str, str]) -> Iterator[str | Span]:
    first, last = map(re.escape, markup)
    end = 0
    for match in re.finditer(f"{first}(.*?){last}", text, re.DOTALL):
        if not match[1].strip():
            continue
        if match.start() > end:
            yield text[end : match.start()]
        yield Span(match.start(), match.end(), match[1])
        end = match.end()
    if end < len(text):
        yield text[end:]


def _hints(hint: str) -> tuple[float | None, int]:
    match = _HINTS.fullmatch(hint)
    if match is None:
        return None, 0
    return float(match[1]) if match[1] else None, int(match[2] or 0)
