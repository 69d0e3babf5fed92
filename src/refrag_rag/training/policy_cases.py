"""Cases for the policy: from questions with answers, or from text with its continuation."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from refrag_rag.errors import InputError
from refrag_rag.spans import neutralise
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.document_sources import DocumentContinuation, Frame
from refrag_rag.training.examples import Piece
from refrag_rag.training.policy_rollouts import Case
from refrag_rag.training.question_sources import QuestionLayout

DrawCases = Callable[[Random, int], list[Case]]
"""Draws so many cases."""


class Cases:
    """The same cases for several steps, then new ones.

    Parameters
    ----------
    draw_cases
        Makes them.
    batch_size
        Cases of a step.
    epochs
        Steps on the same cases.
    figures
        What the objective's two figures are called in the log.
    """

    def __init__(
        self, draw_cases: DrawCases, *, batch_size: int, epochs: int, figures: tuple[str, str]
    ) -> None:
        self.draw_cases, self.batch_size, self.epochs = draw_cases, batch_size, epochs
        self.names = figures
        self.cases: Sequence[Case] = ()
        self.left = 0
        self.figures: list[float] = []

    def draw(self, rng: Random, share: float) -> Sequence[Case]:  # noqa: ARG002
        """The cases of this step."""
        if not self.left:
            self.cases = self.draw_cases(rng, self.batch_size)
            self.left = self.epochs
        self.left -= 1
        return self.cases

    def record(self, loss: float, accuracy: float) -> None:
        """Keep running figures; a step without any (NaN) changes nothing."""
        if math.isnan(loss):
            return
        before = self.figures or [loss, accuracy]
        self.figures = [0.98 * b + 0.02 * n for b, n in zip(before, (loss, accuracy), strict=True)]

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {n: round(f, 5) for n, f in zip(self.names, self.figures, strict=False)}

    def state(self) -> dict[str, Any]:
        """What `restore` needs; states are saved between batches of rollouts."""
        return {"figures": self.figures}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.figures = state["figures"]


def question_case(
    layout: QuestionLayout, frame: Frame, record: QuestionRecord, rng: Random, p: float
) -> Case:
    """A question whose gold answer gives the reward."""
    pieces, question = layout.example(record, rng)
    asked = frame.text_passage(question)
    case = make_case(pieces, p, question=question, asked=asked, origin=record.id or "")
    return replace(case, answer_chunks=answer_chunks(case.chunked, record))


def answer_chunks(passages: Sequence[ChunkedPassage], record: QuestionRecord) -> tuple[int, ...]:
    """Chunks, counted over all passages, that hold a part of an answer.

    Looked at are the passages that are marked as gold, or all of them where none is.
    """
    gold = {neutralise(passage.titled()) for passage in record.passages if passage.gold}
    marked = [passage.text in gold for passage in passages]
    answers = "|".join(re.escape(answer.strip()) for answer in record.answers)
    pattern = re.compile(rf"(?<!\w)(?:{answers})(?!\w)", re.IGNORECASE)
    found: set[int] = set()
    start = 0
    for passage, mark in zip(passages, marked, strict=True):
        if mark or not any(marked):
            for match in pattern.finditer(passage.text):
                places = [match.start(), match.end() - 1]
                first, last = np.searchsorted(passage.char_ends, places, side="right").tolist()
                found.update(range(start + first, start + last + 1))
        start += len(passage)
    return tuple(sorted(found))


def text_case(source: DocumentContinuation, chunks: int, rng: Random, p: float) -> Case:
    """A context whose gold continuation gives the reward."""
    return make_case(source.rows(rng, chunks, 1)[0].pieces, p)


def make_case(
    pieces: Sequence[Piece],
    p: float,
    *,
    question: str = "",
    asked: Piece | None = None,
    origin: str = "",
) -> Case:
    """A case from laid-out pieces.

    Raises
    ------
    InputError
        If there is no chunk to decide on.
    """
    passages = [piece.chunked for piece in pieces if piece.chunked is not None]
    sizes = [len(passage) for passage in passages]
    if not sum(sizes):
        raise InputError(f"Example {origin or '?'} has no chunk; expected passages with text.")
    return Case(
        pieces=tuple(pieces),
        texts=tuple(text for passage in passages for text in passage.chunk_texts()),
        passages=np.repeat(np.arange(len(sizes)), sizes),
        question=question,
        question_piece=asked,
        p=p,
        origin=origin,
    )
