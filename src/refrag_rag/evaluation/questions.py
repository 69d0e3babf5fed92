"""Questions with passages, from a file."""

import hashlib
import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from refrag_rag.errors import InputError
from refrag_rag.evaluation.retrieval import Retriever

Ranking = Literal["file", "retriever"]
"""Whose scores passages have: those of the file, if it has any, or the demo's embedding model's."""


@dataclass(frozen=True)
class Question:
    """A question, the answers that count, and the passages that were retrieved for it.

    Attributes
    ----------
    scores
        Retrieval scores of the passages, higher is better; None if they stand best first.
    """

    text: str
    answers: tuple[str, ...]
    passages: tuple[str, ...]
    gold_retrieved: bool = True
    scores: tuple[float, ...] | None = None

    @cached_property
    def digest(self) -> str:
        """Names question, answers and passages."""
        content = json.dumps([self.text, self.answers, self.passages])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def ranking(self) -> tuple[int, ...]:
        """Places of the passages, best first."""
        places = range(len(self.passages))
        scores = self.scores
        return tuple(places if scores is None else sorted(places, key=lambda n: -scores[n]))


def read_questions(path: str | Path, *, limit: int | None = None) -> list[Question]:
    """Questions of a JSON-lines file, plain or compressed with xz.

    A line is an object with ``question``, ``answers`` (texts; one of them is enough) and
    ``contexts``, a list of objects with ``text`` and, if there is one, ``title``. If all contexts
    of a question have a ``score``, those with the highest are the best; otherwise the first.

    Raises
    ------
    InputError
        If the file or a line cannot be read; file and line are named.
    """
    file = Path(path)
    if limit is not None and limit < 1:
        raise InputError(f"limit = {limit}; expected at least one question of each file.")
    found: list[Question] = []
    number = 0
    try:
        opened = lzma.open if file.suffix == ".xz" else open
        with opened(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if limit is not None and len(found) == limit:
                    break
                if line.strip():
                    found.append(_record(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError, lzma.LZMAError, EOFError) as error:
        raise InputError(
            f"{path} cannot be read behind line {number} ({error}); expected JSON lines in UTF-8, "
            "plain or compressed with xz."
        ) from error
    if not found:
        raise InputError(f"{path} holds no question; expected one a line.")
    return found


def rank_by_retriever(questions: Sequence[Question]) -> list[Question]:
    """The same questions with the similarities of the demo's embedding model as scores."""
    passages = list(dict.fromkeys(p for question in questions for p in question.passages))
    similar = Retriever(passages).similarities([question.text for question in questions])
    row = {passage: place for place, passage in enumerate(passages)}
    ranked = []
    for question, values in zip(questions, similar, strict=True):
        scores = tuple(float(values[row[passage]]) for passage in question.passages)
        ranked.append(replace(question, scores=scores))
    return ranked


def _record(line: str, place: str) -> Question:
    try:
        record = json.loads(line)
        contexts, answers = record["contexts"], record["answers"]
        passages = ["\n".join(filter(None, (c.get("title"), c["text"]))) for c in contexts]
        texts = [record["question"], *answers, *passages]
        if isinstance(answers, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is something else")
        if not record["question"].strip() or not answers or not contexts:
            raise ValueError("question, answers or contexts are empty")
        scores = [context.get("score") for context in contexts]
        known = bool(scores) and all(isinstance(score, int | float) for score in scores)
        ranked = tuple(map(float, scores)) if known else None
        return Question(record["question"], tuple(answers), tuple(passages), scores=ranked)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise InputError(
            f"{place}: {error!r}; expected 'question', 'answers' (a list of texts) and 'contexts' "
            "(a list of objects with 'text', and 'title' if there is one), none of them empty."
        ) from error


def recall(questions: Sequence[Question]) -> float:
    """Share of the questions whose gold passage was retrieved."""
    return sum(question.gold_retrieved for question in questions) / max(1, len(questions))
