"""Held-out figures while a run goes on, for curricula that are led by them."""

from dataclasses import dataclass
from random import Random
from typing import Protocol

from refrag_rag.training.batches import Row
from refrag_rag.training.feedback import FeedbackCurriculum


class HasRows(Protocol):
    """A source whose rows can be asked for by length."""

    def rows(self, rng: Random, chunks: int, count: int) -> list[Row]:
        """`count` rows of a length."""


@dataclass(frozen=True)
class Watch:
    """What is read between steps, without learning from it.

    Attributes
    ----------
    every
        Steps from one look to the next.
    source
        Over documents that are never trained on.
    curriculum
        Is told the figures.
    rows
        Rows of each length.
    seed
        The same rows each time.
    """

    every: int
    source: HasRows
    curriculum: FeedbackCurriculum
    rows: int = 16
    seed: int = 0

    def examples(self) -> dict[int, list[Row]]:
        """Rows by length."""
        lengths = self.curriculum.lengths
        return {n: self.source.rows(Random(f"{self.seed}-{n}"), n, self.rows) for n in lengths}
