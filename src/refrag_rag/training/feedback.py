"""The length curriculum led by held-out figures: hold, move on, rehearse.

Not in the paper, which gives each stage of Table 8 a fixed number of data points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from refrag_rag.errors import InputError
from refrag_rag.training.lengths import STAGES, LengthCurriculum


@dataclass(frozen=True, kw_only=True)
class FeedbackSettings:
    """When a stage counts as mastered, and when and how much is rehearsed.

    Attributes
    ----------
    accuracy
        Least held-out accuracy (0 to 1) of every main length of the stage; None: not asked for.
    loss
        Largest held-out loss, in nats a token; None: not asked for.
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
        If no threshold is given, or a value is out of range.
    """

    accuracy: float | None = 0.87
    loss: float | None = None
    tolerance: float = 0.1
    factor: float = 4.0
    least: float = 0.05

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.accuracy is None and self.loss is None:
            raise InputError("No threshold; expected a held-out accuracy, a loss, or both.")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise InputError(f"accuracy = {self.accuracy}; expected 0 to 1.")
        if self.loss is not None and not self.loss >= 0:
            raise InputError(f"loss = {self.loss}; expected at least 0 nats a token.")
        if not 0 <= self.tolerance < math.inf:
            raise InputError(f"tolerance = {self.tolerance}; expected at least 0 nats a token.")
        if not 1 <= self.factor < math.inf:
            raise InputError(f"factor = {self.factor}; expected at least 1.")
        if not 0 <= self.least <= 1:
            raise InputError(f"least = {self.least}; expected a share, 0 to 1.")


class FeedbackCurriculum:
    """Goes through Table 8 as held-out figures allow, whatever share of the run is done.

    A stage is mastered when each of its main lengths, those with at least an even share of its
    data points, has reached the thresholds in its latest observation since the stage began. Until
    then the stage is held. A length below the longest main one whose held-out loss is worse than
    its best is rehearsed until it is back within the tolerance; that does not hold a stage.

    Without observations the first stage is held.

    Parameters
    ----------
    lengths, maximum
        See `LengthCurriculum`.
    settings
        Thresholds.

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
        settings: FeedbackSettings | None = None,
    ) -> None:
        self.inner = LengthCurriculum(lengths, maximum=maximum)
        self.lengths = self.inner.lengths
        self.settings = settings or FeedbackSettings()
        self.stage = self.held = 0
        self.latest: dict[int, float] = {}
        self.best: dict[int, float] = {}
        self.mastered: dict[int, bool] = {}

    @property
    def main(self) -> list[int]:
        """Lengths that have at least an even share of the stage's data points."""
        weights = self.inner.weights[self.stage]
        even = sum(weights) / len(weights)
        return [n for n, w in zip(self.lengths, weights, strict=True) if w >= even * (1 - 1e-9)]

    @property
    def holding(self) -> list[int]:
        """Main lengths that are not mastered, or not observed since the stage began."""
        return [length for length in self.main if not self.mastered.get(length)]

    @property
    def rehearsed(self) -> list[int]:
        """Lengths below the longest main one whose held-out loss got worse than its best."""
        longest, margin = max(self.main), self.settings.tolerance
        return [n for n in sorted(self.latest) if n < longest and self._worse(n, margin)]

    def observe(self, length: int, loss: float, accuracy: float = math.nan) -> None:
        """Take note of held-out figures of one length.

        Parameters
        ----------
        length
            In chunks.
        loss
            Mean over held-out tokens, in nats a token. A NaN does not count.
        accuracy
            Share of held-out tokens that are right. A NaN does not count.

        Raises
        ------
        InputError
            If the length is not one of the curriculum's, or a figure is impossible.
        """
        self._check(length, loss, accuracy)
        if not math.isnan(loss):
            self.latest[length] = loss
            self.best[length] = min(loss, self.best.get(length, loss))
        self._judge(length, loss, accuracy)
        if not self.holding and self.stage + 1 < STAGES:
            self.stage, self.held, self.mastered = self.stage + 1, 0, {}

    def draw(self, rng: Random, share: float = 0.0) -> int:  # noqa: ARG002 - as LengthCurriculum
        """Draw the length of the next step (to be followed by one `record`)."""
        return self.inner.choose(rng, self.weights())

    def weights(self) -> list[float]:
        """How often each length is drawn now."""
        weights = self.inner.weights[self.stage]
        least = self.settings.least * sum(weights)
        rehearsed = set(self.rehearsed)
        return [
            self.settings.factor * max(weight, least) if length in rehearsed else weight
            for length, weight in zip(self.lengths, weights, strict=True)
        ]

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of a training step's result, which moves nothing."""
        self.inner.record(loss, accuracy)
        self.held += 1

    def summary(self) -> dict[str, Any]:
        """Figures for the log; the stage is counted from one, as in the table."""
        return {
            **self.inner.summary(),
            "stage": self.stage + 1,
            "held": self.held,  # steps
            "held_by": self.holding,
            "rehearsed": self.rehearsed,
            "held_out_loss": {n: round(value, 3) for n, value in sorted(self.latest.items())},
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            **self.inner.state(),
            "stage": self.stage,
            "held": self.held,
            "latest": dict(self.latest),
            "best": dict(self.best),
            "mastered": dict(self.mastered),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.inner.restore(state)
        self.stage, self.held = state["stage"], state["held"]
        # JSON has turned the lengths into text
        self.latest = {int(n): value for n, value in state["latest"].items()}
        self.best = {int(n): value for n, value in state["best"].items()}
        self.mastered = {int(n): value for n, value in state["mastered"].items()}

    def _check(self, length: int, loss: float, accuracy: float) -> None:
        if length not in self.lengths:
            raise InputError(
                f"Held-out figures of {length} chunks; expected one of {list(self.lengths)}."
            )
        if loss < 0 or math.isinf(loss):
            raise InputError(f"A held-out loss of {loss}; expected nats a token, at least 0.")
        if accuracy < 0 or accuracy > 1:
            raise InputError(f"A held-out accuracy of {accuracy}; expected 0 to 1.")

    def _judge(self, length: int, loss: float, accuracy: float) -> None:
        wanted = self.settings
        passed = []
        if wanted.accuracy is not None:
            passed.append(None if math.isnan(accuracy) else accuracy >= wanted.accuracy)
        if wanted.loss is not None:
            passed.append(None if math.isnan(loss) else loss <= wanted.loss)
        if None not in passed:
            self.mastered[length] = all(passed)

    def _worse(self, length: int, margin: float) -> bool:
        return self.latest[length] > self.best[length] + margin
