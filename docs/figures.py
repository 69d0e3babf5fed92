"""Drawn figures, as SVG: how a prompt becomes text and vectors, and the way of the data."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from refrag_rag import Refrag, compressible
from refrag_rag.prompt import TextSegment, VectorSegment

WIDTH, LINE, LETTER = 960, 30, 7.3
TEXT, VECTOR, EXPANDED, SPAN = "#ffffff", "#5c7cfa", "#ffd8a8", "#e7f0ff"
QUESTION = "Who was the captain of the Titanic?"


class Box(NamedTuple):
    """A piece of a lane: its text (empty: a vector), its colour."""

    text: str
    colour: str


def prompt_figure(engine: Refrag, passage: str) -> str:
    """Three lanes: the prompt, the passage's chunks, what the decoder reads."""
    before, after = "Answer from the context.", QUESTION
    content = f"{before}\n{compressible(passage)}\n{after}"
    read = engine.compress([{"role": "user", "content": content}], p=0.2)
    chunks = list(_chunks(engine, read.segments))
    lanes = [
        (
            "1. The framework's prompt, the passage marked",
            [Box(before, TEXT), *_words(f"[[refrag]]{passage}[[/refrag]]"), Box(after, TEXT)],
        ),
        (
            f"2. Chunks of k = {engine.model.config.k} tokens; "
            f"the policy made {read.expanded} of them text",
            chunks,
        ),
        (
            f"3. What the decoder reads: {read.positions} positions instead of "
            f"{read.plain_positions} (each box is one position, blue is a vector)",
            list(_positions(engine, read.segments)),
        ),
    ]
    body, y = "", 10
    for title, boxes in lanes:
        body += f'<text x="12" y="{y + 18}" font-weight="bold">{escape(title)}</text>'
        drawn, y = _lane(boxes, y + LINE)
        body += drawn
        y += 14
    return _svg(body, y)


def _chunks(engine: Refrag, segments: Sequence[TextSegment | VectorSegment]) -> Iterator[Box]:
    for segment in segments:
        if isinstance(segment, VectorSegment):
            yield from (Box(text, SPAN) for text in segment.texts)
        elif segment.role == "expanded":
            ids, k = segment.token_ids, engine.model.config.k
            for start in range(0, len(ids), k):
                yield Box(engine.model.tokenizer.decode(ids[start : start + k]), EXPANDED)


def _positions(engine: Refrag, segments: Sequence[TextSegment | VectorSegment]) -> Iterator[Box]:
    for segment in segments:
        if isinstance(segment, VectorSegment):
            yield from (Box("", VECTOR) for _ in segment.texts)
        else:
            colour = EXPANDED if segment.role == "expanded" else TEXT
            yield from (Box(engine.model.tokenizer.decode([i]), colour) for i in segment.token_ids)


def _words(text: str) -> Iterator[Box]:
    yield from (Box(word, SPAN) for word in text.split())


def _lane(boxes: Sequence[Box], y: int) -> tuple[str, int]:
    """Boxes from left to right, wrapped; the lane's lower end."""
    drawn, x = "", 12.0
    for text, colour in boxes:
        shown = text.replace("\n", "⏎").strip() or ("" if colour == VECTOR else "⏎")
        width = 18 if colour == VECTOR else len(shown) * LETTER + 10
        if x + width > WIDTH - 12:
            x, y = 12.0, y + LINE
        drawn += (
            f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="22" rx="3" fill="{colour}" '
            f'stroke="#868e96"/><text x="{x + 5:.0f}" y="{y + 15}">{escape(shown)}</text>'
        )
        x += width + 4
    return drawn, y + LINE


def chain_figure() -> str:
    """Two rows of boxes: indexing and answering, joined by the store."""
    rows = (
        ("indexing", ["documents", "splitter", "RefragTransform", "embedding model", "index"]),
        ("answering", ["retriever", "RefragPostprocessor", "your prompt", "RefragLLM", "answer"]),
    )
    body = '<defs><marker id="a" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    body += '<path d="M0,0 L8,4 L0,8 z" fill="#495057"/></marker></defs>'
    for row, (name, boxes) in enumerate(rows):
        y = 20 + row * 190
        body += f'<text x="12" y="{y + 24}" font-weight="bold">{name}</text>'
        for place, text in enumerate(boxes):
            body += _part(96 + place * 172, y, text)
            if place:
                body += _arrow(96 + place * 172 - 22, y + 20, 96 + place * 172 - 2, y + 20)
    body += _part(440, 115, "store of vectors", VECTOR)
    body += _arrow(515, 62, 515, 112) + _arrow(560, 157, 660, 207)
    return _svg(body, 270)


def _part(x: int, y: int, text: str, colour: str | None = None) -> str:
    fill = colour or (EXPANDED if text.startswith("Refrag") else TEXT)
    return (
        f'<rect x="{x}" y="{y}" width="150" height="40" rx="4" fill="{fill}" stroke="#868e96"/>'
        f'<text x="{x + 75}" y="{y + 25}" text-anchor="middle">{text}</text>'
    )


def _arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#495057" marker-end="url(#a)"/>'


def _svg(body: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="monospace" font-size="12"><rect width="100%" height="100%" fill="#f8f9fa"/>'
        f"{body}</svg>\n"
    )


def write(folder: Path) -> None:
    """Write all figures."""
    folder.mkdir(exist_ok=True)
    documents = Path(__file__).parents[1] / "src/refrag_rag/demo/facts/documents"
    passage = (documents / "titanic.txt").read_text("utf-8").strip()
    drawn = prompt_figure(Refrag.load("smol"), passage)
    (folder / "prompt.svg").write_text(drawn, encoding="utf-8")
    (folder / "chain.svg").write_text(chain_figure(), encoding="utf-8")
