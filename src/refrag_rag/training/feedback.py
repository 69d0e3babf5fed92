"""The length curriculum led by held-out figures: hold, move on, rehearse.

Not in the paper, which gives each stage of Table 8 a fixed number of data points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from refrag_rag.training.batches import Row
from refrag_rag.training.lengths import STAGES, LengthCurriculum, by_length, rounded


class FeedbackCurriculum(LengthCurriculum):
    """Goes through Table 8 as held-out figures allow, whatever share of the run is done.

    A stage is mastered when each of its main lengths, those with at least an even share of its
    data points, has reached the accuracy in its latest observation since the stage began. Until
    then the stage is held. A length below the longest main one whose held-out loss is worse than
    its best is rehearsed until it is back within the tolerance; that does not hold a stage.

    Parameters
    ----------
    lengths, maximum
        See `LengthCurriculum`.
    accuracy
        Least held-out accuracy of every main length of the stage.
    tolerance
        Nats a token by which a length's held-out loss may exceed its best before it is rehearsed.
    factor
        What the weight of a rehearsed length is multiplied by.
    least
        Share of the stage that a rehearsed length counts with at least before that: late stages of
        the table have next to none of the shortest.

    Raises
    ------
    InputError
        If a length has no row in the table.
    """

    def __init__(
        self,
        lengths: Sequence[int] | None = None,
        *,
        maximum: int | None = None,
        accuracy: float = 0.87,
        tolerance: float = 0.1,
        factor: float = 4.0,
        least: float = 0.05,
    ) -> None:
        super().__init__(lengths, maximum=maximum)
        self.mastery, self.tolerance = accuracy, tolerance
        self.factor, self.least = factor, least
        self.stage = 0
        self.latest: dict[int, float] = {}
        self.best: dict[int, float] = {}
        self.mastered: list[int] = []

    @property
    def main(self) -> list[int]:
        """Lengths that have at least an even share of the stage's data points."""
        weights = self.table[self.stage]
        even = sum(weights) / len(weights)
        return [n for n, w in zip(self.lengths, weights, strict=True) if w >= even * (1 - 1e-9)]

    @property
    def holding(self) -> list[int]:
        """Main lengths that are not mastered, or not observed since the stage began."""
        return [length for length in self.main if length not in self.mastered]

    @property
    def rehearsed(self) -> list[int]:
        """Lengths below the longest main one whose held-out loss got worse than its best."""
        easier = [n for n in sorted(self.latest) if n < max(self.main)]
        return [n for n in easier if self.latest[n] > self.best[n] + self.tolerance]

    def observe(self, length: int, loss: float, accuracy: float) -> None:
        """Take note of held-out figures of one length in chunks; without a loss they do not count.

        The loss is in nats a token, the accuracy the share of tokens that are right.
        """
        if not math.isfinite(loss):
            return
        self.latest[length] = loss
        self.best[length] = min(loss, self.best.get(length, loss))
        self.mastered = [n for n in self.mastered if n != length]
        if accuracy >= self.mastery:
            self.mastered.append(length)
        if not self.holding and self.stage + 1 < STAGES:
            self.stage, self.mastered = self.stage + 1, []

    def weights(self, share: float = 0.0) -> list[float]:  # noqa: ARG002
        """How often each length is drawn now, whatever share of the run is done."""
        weights, rehearsed = self.table[self.stage], self.rehearsed
        least = self.least * sum(weights)
        return [
            self.factor * max(weight, least) if length in rehearsed else weight
            for length, weight in zip(self.lengths, weights, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Figures for the log; the stage is counted from one, as in the table."""
        return {
            **super().summary(),
            "stage": self.stage + 1,
            "held_by": self.holding,
            "rehearsed": self.rehearsed,
            "held_out_loss": rounded(self.latest),
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        names = ("stage", "latest", "best", "mastered")
        return {**super().state(), **{name: getattr(self, name) for name in names}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().restore(state)
        self.stage, self.mastered = state["stage"], state["mastered"]
        self.latest, self.best = by_length(state["latest"]), by_length(state["best"])


class HasRows(Protocol):
    """A source whose rows can be asked for by length."""

    def rows(self, rng: Random, chunks: int, count: int) -> list[Row]:
        """`count` rows of a length."""


@dataclass(frozen=True)
class Watch:
    """What is read every so many steps, without learning from it: the same rows each time.

    Attributes
    ----------
    source
        Over documents that are never trained on.
    curriculum
        Is told the figures.
    rows
        Rows of each length.
    """

    every: int
    source: HasRows
    curriculum: FeedbackCurriculum
    rows: int = 16

    def examples(self) -> dict[int, list[Row]]:
        """Rows by length."""
        lengths = self.curriculum.lengths
        return {n: self.source.rows(Random(f"0-{n}"), n, self.rows) for n in lengths}
