"""``refrag demo``: questions over two collections, from full text and compressed, side by side."""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from refrag_rag.demo.ask import Asker, Reading
from refrag_rag.demo.chain import answer_with_langchain
from refrag_rag.demo.files import read_folder
from refrag_rag.demo.library import index_documents
from refrag_rag.demo.questions import COLLECTIONS, demo_folder, demo_questions
from refrag_rag.demo.quiet import quiet
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.metrics import exact_match

PASSAGE_TOKENS = 100  # of a passage: full text of eight longer ones is slow on two cores
HEADER = ("question", "full text", "compressed", "positions", "TTFT ms", "from")
LOUD = ("sentence_transformers", "faiss", "httpx")
WIDTHS = (46, 20, 20, 10, 11, 26)
ABOUT = """{model} answers each question twice, over the same eight passages that the retriever \
found: from their
full text, and compressed: one vector for every {k} tokens, and {p:.0%} of the chunks as text.
Columns: the two answers ({right} right, {wrong} wrong); decoder positions and milliseconds to the \
first token,
of both; the documents that the passages are from, best first.
"""


@dataclass(frozen=True)
class Pair:
    """One question, its accepted answers, and the two readings of the same passages."""

    question: str
    answers: Sequence[str]
    full: Reading
    compressed: Reading

    def right(self, reading: Reading) -> bool | None:
        """Whether an answer is one of the accepted ones; None where none is known."""
        return exact_match(reading.text, self.answers) if self.answers else None


def run_demo(
    question: str | None = None,
    *,
    collections: Sequence[str] = tuple(COLLECTIONS),
    full: bool = False,
) -> Iterator[str]:
    """Index the demo's documents and yield the lines of the tables.

    Parameters
    ----------
    question
        Ask only this one, of the first collection.
    collections
        Which ones.
    full
        Print every cell whole, on a line of its own.
    """
    with tempfile.TemporaryDirectory() as home, quiet(*LOUD):
        engine = Refrag.load("smol", store=Path(home) / "chunks")
        right, wrong = _marks()
        yield ABOUT.format(
            model=engine.model_name, k=engine.model.config.k, p=engine.p, right=right, wrong=wrong
        )
        for name in collections[:1] if question else collections:
            asked = [(question, [])] if question else demo_questions(name)
            yield from _collection(name, engine, asked, full=full)
        engine.store.close()


def _collection(
    name: str, engine: Refrag, asked: Sequence[tuple[str, Sequence[str]]], *, full: bool
) -> Iterator[str]:
    """One collection: index it, ask everything, and count."""
    documents = read_folder(demo_folder(name) / "documents").documents
    index = index_documents(documents, engine, passage_tokens=PASSAGE_TOKENS)
    texts = [node.text for node in index.docstore.docs.values()]  # type: ignore[attr-defined]
    yield f"{name}: {COLLECTIONS[name]}, {len(texts)} passages, embeddings in the store\n"
    plain, compressed = Asker(index, engine, policy="all"), Asker(index, engine)
    plain.ask(asked[0][0])  # warm-up of both sides
    compressed.ask(asked[0][0])
    if not full:
        yield _row(HEADER)
    pairs = []
    for question, answers in asked:
        pair = Pair(question, answers, plain.ask(question), compressed.ask(question))
        pairs.append(pair)
        yield _whole(pair) if full else _row(_cells(pair))
    if all(pair.answers for pair in pairs):
        yield _summary(pairs)
    through = answer_with_langchain(texts, [pair.question for pair in pairs], engine)
    if all(pair.answers for pair in pairs):
        count = sum(exact_match(text, p.answers) for text, p in zip(through, pairs, strict=True))
        yield f"the same questions through LangChain, compressed: {count} of {len(pairs)} right\n"
    else:
        yield f"\nthrough LangChain, compressed: {through[0]}"


def _cells(pair: Pair) -> tuple[str, ...]:
    sides = (pair.full, pair.compressed)
    return (
        pair.question,
        *(_marked(pair, side) for side in sides),
        " / ".join(str(side.answer.counts.positions) for side in sides),
        " / ".join(f"{1000 * side.answer.timings.ttft_s:.0f}" for side in sides),
        "; ".join(dict.fromkeys(source.title for source in pair.compressed.sources)),
    )


def _whole(pair: Pair) -> str:
    """Every cell, nothing cut."""
    names = ("  full text ", "  compressed", "  positions ", "  TTFT ms   ", "  from      ")
    question, *cells = _cells(pair)
    lines = [f"{name}  {cell}" for name, cell in zip(names, cells, strict=True)]
    if pair.answers:
        lines.append(f"  expected    {' or '.join(pair.answers)}")
    counts = pair.compressed.answer.counts
    lines.append(f"  store       {counts.cache_hits} of {counts.spans} passages")
    return "\n".join((question, *lines))


def _marked(pair: Pair, reading: Reading) -> str:
    found = pair.right(reading)
    right, wrong = _marks()
    text = " ".join(reading.text.split())
    return text if found is None else f"{right if found else wrong} {text}"


def _marks() -> tuple[str, str]:
    """Signs for right and wrong that the terminal can print."""
    return ("✓", "✗") if (sys.stdout.encoding or "").lower().startswith("utf") else ("+", "-")


def _row(cells: Sequence[str]) -> str:
    return "  ".join(
        (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
        for cell, width in zip(cells, WIDTHS, strict=True)
    ).rstrip()


def _summary(pairs: Sequence[Pair]) -> str:
    full = sum(bool(pair.right(pair.full)) for pair in pairs)
    compressed = sum(bool(pair.right(pair.compressed)) for pair in pairs)
    answers = [(pair.full.answer, pair.compressed.answer) for pair in pairs]
    saved = statistics.median(a.counts.positions / b.counts.positions for a, b in answers)
    sooner = statistics.median(a.timings.ttft_s / b.timings.ttft_s for a, b in answers)
    return (
        f"\nright: {full} of {len(pairs)} from full text, {compressed} compressed; "
        f"{saved:.1f}x fewer positions, first token {sooner:.1f}x sooner (medians of this run)"
    )
