"""``refrag demo``: questions over two collections, from full text and compressed, side by side."""

import logging
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refrag_rag.demo.ask import Asker, Reading
from refrag_rag.demo.chain import answer_with_langchain
from refrag_rag.demo.library import build_index
from refrag_rag.demo.questions import COLLECTIONS, demo_folder, demo_questions
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.metrics import exact_match

PASSAGE_TOKENS = 100  # of a passage: full text of eight longer ones is slow on two cores
HEADER = ("question", "full text", "compressed", "positions", "TTFT ms", "from")
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
    with tempfile.TemporaryDirectory() as home, _quiet():
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
    documents = demo_folder(name) / "documents"
    index = build_index(documents, engine, passage_tokens=PASSAGE_TOKENS)
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
        yield from _summary(pairs)
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
        " / ".join(str(side.counts["positions"]) for side in sides),
        " / ".join(f"{1000 * side.counts['ttft_s']:.0f}" for side in sides),
        "; ".join(_titles(pair.compressed)),
    )


def _whole(pair: Pair) -> str:
    """Every cell, nothing cut."""
    names = ("  full text ", "  compressed", "  positions ", "  TTFT ms   ", "  from      ")
    question, *cells = _cells(pair)
    lines = [f"{name}  {cell}" for name, cell in zip(names, cells, strict=True)]
    if pair.answers:
        lines.append(f"  expected    {' or '.join(pair.answers)}")
    hits = pair.compressed.counts
    lines.append(f"  store       {hits['cache_hits']} of {hits['spans']} passages")
    return "\n".join((question, *lines))


def _marked(pair: Pair, reading: Reading) -> str:
    found = pair.right(reading)
    right, wrong = _marks()
    text = " ".join(reading.text.split())
    return text if found is None else f"{right if found else wrong} {text}"


def _marks() -> tuple[str, str]:
    """Signs for right and wrong that the terminal can print."""
    return ("✓", "✗") if (sys.stdout.encoding or "").lower().startswith("utf") else ("+", "-")


def _titles(reading: Reading) -> list[str]:
    """The documents that the passages are from, best first, each once."""
    return list(dict.fromkeys(source.title for source in reading.sources))


def _row(cells: Sequence[str]) -> str:
    return "  ".join(
        (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
        for cell, width in zip(cells, WIDTHS, strict=True)
    ).rstrip()


def _summary(pairs: Sequence[Pair]) -> Iterator[str]:
    full, compressed = (
        sum(bool(pair.right(side)) for pair, side in zip(pairs, sides, strict=True))
        for sides in ([pair.full for pair in pairs], [pair.compressed for pair in pairs])
    )
    saved, sooner = (
        statistics.median(p.full.counts[name] / p.compressed.counts[name] for p in pairs)
        for name in ("positions", "ttft_s")
    )
    yield (
        f"\nright: {full} of {len(pairs)} from full text, {compressed} compressed; "
        f"{saved:.1f}x fewer positions, first token {sooner:.1f}x sooner (medians of this run)"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' loading notes off the table."""
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    loud = [logging.getLogger(name) for name in ("sentence_transformers", "faiss", "httpx")]
    before = [logger.level for logger in loud]
    transformers_logging.disable_progress_bar()
    for logger in loud:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loud, before, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
