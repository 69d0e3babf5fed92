"""An `Inspection` as HTML: no scripts, nothing from elsewhere, all text of documents escaped."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader

from refrag_rag.generation.answer import Answer
from refrag_rag.inspection.record import Inspection, inspect
from refrag_rag.prompt import CompressedPrompt

HEADING = 160  # characters


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
    return _fill("page.html", shown, title)


def fragment(shown: Inspection) -> str:
    """Render the part between ``<body>`` and ``</body>``, with its style, for notebooks."""
    return _fill("fragment.html", shown, None)


def _fill(template: str, shown: Inspection, title: str | None) -> str:
    return (
        _templates()
        .get_template(template)
        .render(
            shown=shown,
            heading=title or _heading(shown.question),
            passages=list(zip(shown.layouts, shown.passages(), strict=True)),
            times=[
                (name, f"time{place}", time) for place, (name, time) in enumerate(shown.seconds)
            ],
            milliseconds=_milliseconds,
        )
    )


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("refrag_rag", "inspection"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_encodable,
    )


def _encodable(value: Any) -> Any:
    """Text in which what UTF-8 cannot carry is a question mark."""
    return value.encode("utf-8", "replace").decode("utf-8") if type(value) is str else value


def _heading(question: str) -> str:
    words = " ".join(question.split())
    return words if len(words) <= HEADING else f"{words[:HEADING].rstrip()}…"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.{0 if not seconds or seconds >= 0.01 else 1}f} ms"
