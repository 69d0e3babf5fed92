"""``refrag demo``: the table."""

import logging
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from refrag_rag.demo.ask import Asker, Reading
from refrag_rag.demo.chain import answer_with_langchain
from refrag_rag.demo.library import build_index
from refrag_rag.engine import Refrag
from refrag_rag.evaluation.metrics import exact_match

HEADER = ("question", "full text", "compressed", "positions", "TTFT ms", "hits")
WIDTHS = (56, 20, 20, 11, 13, 5)


def demo_folder() -> Path:
    """The demo's documents and questions."""
    return Path(str(resources.files("refrag_rag"))) / "demo"


def demo_questions() -> list[tuple[str, str]]:
    """Questions with their answers."""
    lines = (demo_folder() / "questions.txt").read_text("utf-8").splitlines()
    pairs = [line.partition(" = ") for line in lines if line and not line.startswith("#")]
    return [(question, answer) for question, _, answer in pairs]


def run_demo(question: str | None = None) -> Iterator[str]:
    """Index the demo's documents and yield the lines of the table.

    Parameters
    ----------
    question
        Ask only this one.
    """
    with tempfile.TemporaryDirectory() as home, _quiet():
        engine = Refrag.load("tiny", store=Path(home) / "chunks")
        index = build_index(demo_folder() / "documents", engine)
        texts = [node.text for node in index.docstore.docs.values()]  # type: ignore[attr-defined]
        report = engine.precompute(texts)
        yield f"{report.passages} passages in {report.chunks} chunks, embeddings in the store.\n"
        asked = [(question, "")] if question else demo_questions()
        full = Asker(index, engine, policy="all")
        compressed = Asker(index, engine)
        full.ask(asked[0][0])  # warm-up of both sides
        compressed.ask(asked[0][0])
        yield _row(HEADER)
        pairs = []
        for text, _ in asked:
            pairs.append((full.ask(text), compressed.ask(text)))
            yield _row(_cells(text, *pairs[-1]))
        if not question:
            yield from _summary(asked, pairs)
        last = asked[-1][0]
        yield f"\nThrough LangChain: {last} -> {answer_with_langchain(texts, last, engine)}"
        engine.store.close()


def _cells(question: str, full: Reading, compressed: Reading) -> tuple[str, ...]:
    sides = (full.counts, compressed.counts)
    return (
        question,
        full.text,
        compressed.text,
        " / ".join(str(side["positions"]) for side in sides),
        " / ".join(f"{1000 * side['ttft_s']:.0f}" for side in sides),
        f"{compressed.counts['cache_hits']}/{compressed.counts['spans']}",
    )


def _row(cells: Sequence[str]) -> str:
    return "  ".join(
        (cell if len(cell) <= width else cell[: width - 1] + "…").ljust(width)
        for cell, width in zip(cells, WIDTHS, strict=True)
    ).rstrip()


def _summary(
    asked: Sequence[tuple[str, str]], pairs: Sequence[tuple[Reading, Reading]]
) -> Iterator[str]:
    right = [
        sum(exact_match(pair[side].text, [a]) for (_, a), pair in zip(asked, pairs, strict=True))
        for side in (0, 1)
    ]
    saved = statistics.median(f.counts["positions"] / c.counts["positions"] for f, c in pairs)
    sooner = statistics.median(f.counts["ttft_s"] / c.counts["ttft_s"] for f, c in pairs)
    yield (
        f"\nright: {right[0]} of {len(asked)} from full text, {right[1]} compressed; "
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
