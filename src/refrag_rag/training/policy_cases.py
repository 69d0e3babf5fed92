"""Cases for the policy: examples with passages to decide on, and a gold answer or continuation."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import InputError
from refrag_rag.policies import limit_of
from refrag_rag.spans import neutralise
from refrag_rag.text.chunking import ChunkedPassage
from refrag_rag.training.batches import Piece, Row, arrange, passages_of
from refrag_rag.training.data.records import QuestionRecord
from refrag_rag.training.layout import Frame, QuestionLayout


@dataclass(frozen=True, eq=False)
class Case:
    """One example that the policy decides on.

    Attributes
    ----------
    pieces
        The example, with its gold tokens.
    p
        Share of the chunks to expand.
    question
        What is asked; empty where nothing is.
    asked
        The question, cut into chunks.
    origin
        Where it comes from, for messages.
    weight
        1, or 0 for a case that only fills a place.
    answer_chunks
        Where the gold answer stands, if it stands in a passage.
    scored
        Whether the policy sees the retrieval scores, where passages have them.

    Raises
    ------
    InputError
        If there is no chunk to decide on.
    """

    pieces: Sequence[Piece]
    p: float
    question: str = ""
    asked: Piece | None = None
    origin: str = ""
    weight: float = 1.0
    answer_chunks: tuple[int, ...] = ()
    scored: bool = True

    def __post_init__(self) -> None:
        """Look for chunks."""
        if not any(map(len, self.chunked)):
            raise InputError(
                f"Example {self.origin or '?'} has no chunk; expected passages with text."
            )

    @property
    def tokens(self) -> int:
        """Tokens of the example, all as text."""
        return sum(len(piece.ids) for piece in self.pieces)

    @cached_property
    def chunked(self) -> list[ChunkedPassage]:
        """The passages."""
        return passages_of(self.pieces)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Its L chunks as text."""
        return tuple(text for passage in self.chunked for text in passage.chunk_texts())

    @cached_property
    def passages(self) -> NDArray[np.int64]:
        """The passage of each chunk, *shape* (L,)."""
        return np.repeat(np.arange(len(self.chunked)), [len(one) for one in self.chunked])

    @property
    def retrieval(self) -> list[float | None]:
        """The retrieval score of each passage, if it is known and to be seen."""
        found = [piece.retrieval for piece in self.pieces if piece.chunked is not None]
        return found if self.scored else [None] * len(found)

    def allowed(self, p: float | None = None) -> int:
        """How many chunks a share (the case's own by default) expands, T'."""
        return limit_of(self.p if p is None else p, len(self.texts))

    def silent(self) -> "Case":
        """The same without any loss."""
        return replace(self, weight=0.0)

    def arranged(self, expanded: Sequence[int]) -> Row:
        """The example with these chunks as text."""
        mask = np.zeros(len(self.texts), bool)
        mask[list(expanded)] = True
        masks = [mask[self.passages == place].tolist() for place in range(len(self.chunked))]
        return arrange(self.pieces, masks, origin=self.origin)


DrawCases = Callable[[Random, int], list[Case]]
"""Draws so many cases."""


class Cases:
    """The same cases for several steps (`epochs`), then new ones.

    `figures` is what the objective's two figures are called in the log.
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
    layout: QuestionLayout,
    frame: Frame,
    record: QuestionRecord,
    rng: Random,
    p: float,
    *,
    hide_scores: float = 0.0,
) -> Case:
    """A question whose gold answer gives the reward; with or without its retrieval scores.

    `hide_scores` is how often they are kept from the policy, so that it learns to do without.
    """
    pieces, question = layout.example(record, rng)
    return Case(
        pieces,
        p,
        question=question,
        asked=frame.text_passage(question),
        origin=record.id or "",
        answer_chunks=answer_chunks(passages_of(pieces), record),
        scored=not hide_scores or rng.random() >= hide_scores,
    )


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
