"""``refrag coverage``: how often what a policy expands holds the answer, on anybody's questions.

No decoder reads anything here: the measure is of policies and text, for any domain. It is kind to
long budgets, and says nothing of answers that a decoder reads from vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from refrag_rag.errors import InputError
from refrag_rag.evaluation.metrics import normalise, wilson
from refrag_rag.evaluation.questions import Question, read_questions
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.model import RefragModel
from refrag_rag.policies import Chunks, get_policy, limit_of, needs_of
from refrag_rag.text.chunking import Chunker


@dataclass(frozen=True)
class Coverage:
    """One policy at one budget on one file.

    Attributes
    ----------
    covered, low, high
        Share of the questions for which one of the answers stands in consecutive expanded chunks
        of one passage, and its 95% Wilson interval. Questions with no answer in any passage are
        left out.
    """

    file: str
    policy: str
    p: float
    questions: int
    covered: float
    low: float
    high: float


def measure_coverage(
    model: str,
    files: Sequence[Path],
    target: Path,
    *,
    policies: Sequence[str],
    shares: Sequence[float],
    limit: int | None = None,
) -> Iterator[str]:
    """Measure, write JSON to `target`, and yield Markdown.

    Parameters
    ----------
    model
        Embedded name, folder or hub id; gives k and the tokenizer that cuts chunks.
    files
        See `read_questions`.
    policies
        Names; those that need no more than texts.
    shares
        Budgets.
    limit
        Questions of each file.

    Raises
    ------
    InputError
        If a policy needs more than texts, or a record is not readable.
    """
    for name in policies:
        if needs_of(get_policy(name)) or "retrieval" in name.split("+"):
            raise InputError(
                f"Policy {name!r} needs more than texts; expected others, such as 'lexical'."
            )
    loaded = RefragModel.from_pretrained(model)
    report: dict[str, Any] = {
        "model": model,
        "k": loaded.config.k,
        **machine(),
        "rows": [],
    }
    for file in files:
        found = cut(read_questions(file, limit=limit), loaded.chunker)
        for name in policies:
            rows = coverage(found, file.name, name, shares)
            report["rows"] += [asdict(row) for row in rows]
    write_json(report, target)
    yield markdown(report["rows"])


def cut(questions: Sequence[Question], chunker: Chunker) -> list[tuple[Question, Chunks]]:
    """Cut all passages; questions whose answers stand in none of them are left out."""
    cut_questions = []
    for question in tqdm(questions, desc="cutting", unit="question"):
        if any(_holds(passage, question.answers) for passage in question.passages):
            texts = [chunker.chunk(passage).chunk_texts() for passage in question.passages]
            cut_questions.append((question, _chunks(texts)))
    return cut_questions


def coverage(
    questions: Sequence[tuple[Question, Chunks]], file: str, name: str, shares: Sequence[float]
) -> list[Coverage]:
    """One policy at every budget."""
    policy, rows = get_policy(name), []
    for p in shares:
        covered = sum(
            covers(
                chunks,
                policy.select(chunks, question.text, limit_of(p, len(chunks.texts))),
                question.answers,
            )
            for question, chunks in tqdm(questions, desc=f"{name}, p = {p}", leave=False)
        )
        total = len(questions)
        rows.append(
            Coverage(file, name, p, total, covered / max(1, total), *wilson(covered, total))
        )
    return rows


def covers(chunks: Chunks, expanded: NDArray[np.bool_], answers: Sequence[str]) -> bool:
    """Whether consecutive expanded chunks of one passage hold an answer."""
    run = ""
    for place, (text, passage) in enumerate(zip(chunks.texts, chunks.passages, strict=True)):
        goes_on = place > 0 and expanded[place - 1] and chunks.passages[place - 1] == passage
        if expanded[place]:
            run = run + text if goes_on else text
            if _holds(run, answers):
                return True
    return False


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a file and policy, one column a budget."""
    shares = sorted({row["p"] for row in rows})
    lines = [
        "| questions | policy | " + " | ".join(f"p = {p}" for p in shares) + " |",
        "|---" * (2 + len(shares)) + "|",
    ]
    for file, name in dict.fromkeys((row["file"], row["policy"]) for row in rows):
        one = {row["p"]: row for row in rows if (row["file"], row["policy"]) == (file, name)}
        total = one[shares[0]]["questions"]
        cells = [
            f"{one[p]['covered']:.1%} ({one[p]['low']:.1%} - {one[p]['high']:.1%})" for p in shares
        ]
        lines.append(f"| {file}, {total} | `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _holds(text: str, answers: Sequence[str]) -> bool:
    words = f" {normalise(text)} "
    return any(f" {normalise(answer)} " in words for answer in answers if normalise(answer))


def _chunks(texts: Sequence[Sequence[str]]) -> Chunks:
    counts = [len(parts) for parts in texts]
    return Chunks(
        texts=[text for parts in texts for text in parts],
        passages=np.repeat(np.arange(len(texts)), counts),
        embeddings=np.zeros((sum(counts), 1), np.float16),
        scores={},
        retrieval=[None] * len(texts),
    )
