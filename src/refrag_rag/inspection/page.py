"""An `Inspection` as HTML: no scripts, nothing from elsewhere, all text of documents escaped."""

import html
import math
from collections.abc import Iterator
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from refrag_rag.generation.answer import Answer
from refrag_rag.inspection.record import Inspection, inspect
from refrag_rag.prompt import CompressedPrompt, SpanLayout

# Nothing may be fetched or run, whatever got into the page.
HEADING = 160  # characters
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(record: Answer | CompressedPrompt | Inspection, *, title: str | None = None) -> str:
    """Render a self-contained page.

    Parameters
    ----------
    record
        An `Answer`, a `CompressedPrompt`, or the inspection of one.
    title
        Heading; by default the beginning of what the policy was asked, which in a framework's
        template is more than the user's question.

    Returns
    -------
    str
        An HTML document, to be written as UTF-8.
    """
    shown = record if isinstance(record, Inspection) else inspect(record)
    heading = title or _heading(shown.question)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(heading)}</title>\n"
        f'</head>\n<body class="refrag-page">\n{fragment(shown, title=heading)}\n</body>\n</html>\n'
    )


def fragment(shown: Inspection, *, title: str | None = None) -> str:
    """Render the part between ``<body>`` and ``</body>``, with its style, for notebooks."""
    parts = "".join(_parts(shown, title or _heading(shown.question)))
    return f'<div class="refrag">\n<style>\n{_style()}</style>\n{parts}</div>'


def _heading(question: str) -> str:
    words = " ".join(question.split())
    return words if len(words) <= HEADING else f"{words[:HEADING].rstrip()}…"


def _parts(shown: Inspection, heading: str) -> Iterator[str]:
    yield f'<h1 dir="auto">{_text(heading or "No question")}</h1>\n'
    if shown.answer is not None:
        answer = shown.answer.strip() or "(empty answer)"
        yield f'<p class="answer" dir="auto">{_text(answer)}</p>\n'
    if shown.question.strip() not in ("", heading):
        yield (
            "<details><summary>what the policy was asked</summary>"
            f'<p class="asked" dir="auto">{_text(shown.question.strip())}</p></details>\n'
        )
    yield '<div class="measures">\n'
    yield _positions(shown)
    if shown.seconds:
        yield _seconds(shown)
    yield "</div>\n"
    if not shown.layouts:
        yield '<p class="note">The prompt holds no marked passages.</p>\n'
        return
    yield _legend(any(layout.scores is not None for layout in shown.layouts))
    for number, (layout, ranks) in enumerate(
        zip(shown.layouts, shown.ranks(), strict=True), start=1
    ):
        yield _passage(number, layout, ranks)


def _positions(shown: Inspection) -> str:
    vectors = shown.chunks - shown.expanded
    saved = shown.plain_positions - shown.positions
    share = saved / max(1, shown.plain_positions)
    parts = [
        ("vectors", "vector", vectors),
        ("text tokens", "text", shown.positions - vectors),
        ("saved", "saved", max(0, saved)),
    ]
    title = (
        f"<b>{shown.positions:,}</b> positions instead of {shown.plain_positions:,}, "
        f"{saved:,} saved ({share:.0%})"
    )
    return _measure("positions", title, [(n, c, v, f"{v:,}") for n, c, v in parts])


def _seconds(shown: Inspection) -> str:
    total = sum(seconds for _, seconds in shown.seconds)
    parts = [
        (name, f"time{place}", seconds, _milliseconds(seconds))
        for place, (name, seconds) in enumerate(shown.seconds)
    ]
    return _measure("timings", f"<b>{_milliseconds(total)}</b> in all", parts)


def _measure(kind: str, title: str, parts: list[tuple[str, str, float, str]]) -> str:
    """A bar with its legend; parts are names, classes, sizes and what to print."""
    percent = 100 / (sum(size for _, _, size, _ in parts) or 1.0)
    bar = "".join(
        f'<i class="{name}" style="flex-grow:{percent * size:.2f}" title="{label}: {value}"></i>'
        for label, name, size, value in parts
        if size > 0
    )
    keys = "".join(
        f'<li><i class="{name}"></i>{label} <b>{value}</b></li>' for label, name, _, value in parts
    )
    return (
        f'<section class="measure {kind}"><p>{title}</p>'
        f'<div class="bar">{bar}</div><ul>{keys}</ul></section>\n'
    )


def _legend(ranked: bool) -> str:
    keys = [
        '<span class="key">compressed</span> one vector a chunk',
        '<mark class="key">expanded</mark> read as text',
    ]
    if ranked:
        steps = "".join(f'<span class="key" style="--s:{s}"></span>' for s in (0, 0.5, 1))
        keys.append(f"{steps}the policy's score, low to high")
    return f'<ul class="legend">{"".join(f"<li>{key}</li>" for key in keys)}</ul>\n'


def _passage(number: int, layout: SpanLayout, ranks: NDArray[np.float64]) -> str:
    facts = [
        f"{len(layout)} chunks, {int(layout.expanded.sum())} as text",
        "from the store" if layout.hit else "not in the store",
    ]
    if layout.retrieval is not None:
        facts.append(f"retrieval score {layout.retrieval:.3g}")
    return (
        f'<article class="passage"><h2>Passage {number} <small>{" · ".join(facts)}</small></h2>'
        f'<p class="chunks" dir="auto">{"".join(_chunks(layout, ranks))}</p></article>\n'
    )


def _chunks(layout: SpanLayout, ranks: NDArray[np.float64]) -> Iterator[str]:
    for place, (text, expanded) in enumerate(zip(layout.texts(), layout.expanded, strict=True)):
        tag = "mark" if expanded else "span"
        title = f"chunk {place + 1}: {'text' if expanded else 'one vector'}{_score(layout, place)}"
        style = f' style="--s:{ranks[place]:.2f}"' if ranks[place] > 0 else ""
        yield f'<{tag} class="chunk" title="{title}"{style}>{_text(text)}</{tag}>'


def _score(layout: SpanLayout, place: int) -> str:
    score = math.nan if layout.scores is None else float(layout.scores[place])
    return f", score {score:.3g}" if math.isfinite(score) else ""


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.{0 if not seconds or seconds >= 0.01 else 1}f} ms"


def _text(text: str) -> str:
    """Escape text; what UTF-8 cannot carry becomes a question mark."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


@cache
def _style() -> str:
    return resources.files(__package__).joinpath("style.css").read_text("utf-8")
