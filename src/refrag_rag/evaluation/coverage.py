"""``refrag coverage``: how often what a policy expands holds the answer, on anybody's questions.

No decoder reads anything here: the measure is of policies, for any domain. It is kind to large
shares p, and says nothing of answers that a decoder reads from vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from refrag_rag.errors import InputError
from refrag_rag.evaluation.metrics import normalise, wilson
from refrag_rag.evaluation.questions import (
    Question,
    Ranking,
    rank_by_retriever,
    read_questions,
)
from refrag_rag.evaluation.report import machine, write_json
from refrag_rag.model import RefragModel
from refrag_rag.policies import QUESTION, Chunks, Policy, get_policy, limit_of, needs_of
from refrag_rag.spans import neutralise
from refrag_rag.text.chunking import ChunkedPassage


@dataclass(frozen=True)
class Coverage:
    """One policy at one share p on one file.

    Attributes
    ----------
    covered, low, high
        Share of the questions for which one of the answers stands in consecutive expanded chunks
        of one passage, and its 95% Wilson interval. Questions with no answer in any passage are
        left out.
    """

    file: str
    ranking: Ranking
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
    rankings: Sequence[Ranking] = ("file",),
    limit: int | None = None,
) -> Iterator[str]:
    """Measure, write JSON to `target`, and yield Markdown.

    Parameters
    ----------
    model
        Embedded name, folder or hub id; gives k, the tokenizer that cuts chunks, and policies of
        its own, for which its encoder reads all passages.
    files
        See `read_questions`.
    policies
        Names.
    shares
        Budgets.
    rankings
        Where the passages' scores come from, see `refrag_rag.evaluation.run.evaluate`.
    limit
        Questions of each file.

    Raises
    ------
    InputError
        If there is no such policy, if one needs stored scores, or if a record is not readable.
    """
    loaded = RefragModel.from_pretrained(model, dtype="auto")
    chosen = {name: get_policy(name, loaded.policies) for name in policies}
    if stored := [name for name, one in chosen.items() if needs_of(one) - {QUESTION}]:
        raise InputError(
            f"Policy {stored[0]!r} needs scores of a store; expected others, such as 'hybrid'."
        )
    own = bool({part for name in policies for part in name.split("+")} & set(loaded.policies))
    report: dict[str, Any] = {"model": model, "k": loaded.config.k, **machine(), "rows": []}
    for file in files:
        asked = read_questions(file, limit=limit)
        found = cut(asked, loaded, encode=own)
        for ranking in sorted(rankings):  # the file's first
            if ranking == "retriever":
                found = _ranked(found)
            for policy in chosen.values():
                for p in shares:
                    report["rows"].append(
                        asdict(coverage(found, policy, p, file=file.name, ranking=ranking))
                    )
            write_json(report, target)
    yield markdown(report["rows"])


def cut(
    questions: Sequence[Question], model: RefragModel, *, encode: bool = False
) -> list[tuple[Question, Chunks]]:
    """Cut all passages; questions whose answers stand in none of them are left out."""
    chunk = model.chunker.chunk
    found = []
    for question in tqdm(questions, desc="cutting", unit="question"):
        if any(_holds(passage, question.answers) for passage in question.passages):
            passages = [chunk(neutralise(passage)) for passage in question.passages]
            chunks = _chunks(passages, question.scores)
            if encode:
                *embeddings, asked = model.encode([*passages, chunk(question.text)])
                rows = torch.cat(embeddings).float().cpu().numpy()
                chunks = replace(chunks, embeddings=rows, question=asked.float().cpu().numpy())
            found.append((question, chunks))
    return found


def _ranked(found: Sequence[tuple[Question, Chunks]]) -> list[tuple[Question, Chunks]]:
    """The same with a retriever's scores."""
    questions = rank_by_retriever([question for question, _ in found])
    return [
        (question, replace(chunks, retrieval=question.scores or ()))
        for question, (_, chunks) in zip(questions, found, strict=True)
    ]


def coverage(
    questions: Sequence[tuple[Question, Chunks]],
    policy: Policy,
    p: float,
    *,
    file: str,
    ranking: Ranking,
) -> Coverage:
    """One policy at one share p."""
    covered = sum(
        covers(
            chunks,
            policy.select(chunks, question.text, limit_of(p, len(chunks.texts))),
            question.answers,
        )
        for question, chunks in tqdm(questions, desc=f"{policy.name}, p = {p}", leave=False)
    )
    total = len(questions)
    low, high = wilson(covered, total)
    return Coverage(file, ranking, policy.name, p, total, covered / max(1, total), low, high)


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
    """One line a file, ranking and policy, one column a share p."""
    shares = sorted({row["p"] for row in rows})
    lines = [
        "| questions | scores | policy | " + " | ".join(f"p = {p}" for p in shares) + " |",
        "|---" * (3 + len(shares)) + "|",
    ]
    places = dict.fromkeys((row["file"], row["ranking"], row["policy"]) for row in rows)
    for place in places:
        one = {r["p"]: r for r in rows if (r["file"], r["ranking"], r["policy"]) == place}
        file, ranking, name = place
        cells = [
            f"{one[p]['covered']:.1%} ({one[p]['low']:.1%} - {one[p]['high']:.1%})" for p in shares
        ]
        total = one[shares[0]]["questions"]
        lines.append(f"| {file}, {total} | {ranking} | `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _holds(text: str, answers: Sequence[str]) -> bool:
    words = f" {normalise(text)} "
    return any(f" {normalise(answer)} " in words for answer in answers if normalise(answer))


def _chunks(passages: Sequence[ChunkedPassage], scores: Sequence[float] | None) -> Chunks:
    counts = [len(passage) for passage in passages]
    return Chunks(
        texts=[text for passage in passages for text in passage.chunk_texts()],
        passages=np.repeat(np.arange(len(passages)), counts),
        embeddings=np.zeros((sum(counts), 1), np.float32),
        scores={},
        retrieval=[None] * len(passages) if scores is None else scores,
    )
