"""Growing the context: a level is left when it is mastered, earlier levels stay in the mix."""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

from recipes.tiny.tasks import Level

# Many passages of one fact come before passages of many facts: of eight that tell the same
# attribute only the name points to one, and guessing is right one time in eight. Between two
# passages it is right every other time, and a decoder that guesses learns names much later.
LEVELS = (
    Level(1, 1, 1.0),
    Level(1, 2, 1.0),
    Level(8, 1, 1.0),
    Level(8, 2, 1.0),
    Level(8, 3, 0.9),
    Level(8, 4, 0.8),
    Level(8, 5, 0.7),
    Level(8, 6, 0.65),
)


class LevelCurriculum:
    """Draws levels: mostly the current one, the rest from those below it.

    Parameters
    ----------
    levels
        From easy to hard.
    threshold
        Running accuracy of the first answer token at which the current level counts as mastered.
    start
        Level to start at.
    patience
        Least number of steps of a level before it can be left.
    below
        Share of draws from the levels below the current one.
    """

    def __init__(
        self,
        levels: Sequence[Level] = LEVELS,
        *,
        threshold: float = 0.88,
        start: int = 0,
        patience: int = 40,
        below: float = 0.1,
    ) -> None:
        self.levels, self.threshold, self.patience = tuple(levels), threshold, patience
        self.below = below
        self.current, self.drawn, self.seen = start, start, 0
        self.accuracy = [0.0] * len(self.levels)
        self.loss = [0.0] * len(self.levels)

    def draw(self, rng: Random) -> Level:
        """Draw the level of the next step (to be followed by one `record`)."""
        below = self.current and rng.random() < self.below
        self.drawn = rng.randrange(self.current) if below else self.current
        return self.levels[self.drawn]

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of the step's result; move up when the current level is mastered.

        A step without any question has no accuracy (NaN) and does not count.
        """
        if math.isnan(accuracy):
            return
        place = self.drawn
        first = self.accuracy[place] == 0
        keep = 0.0 if first else 0.95
        self.accuracy[place] = keep * self.accuracy[place] + (1 - keep) * accuracy
        self.loss[place] = keep * self.loss[place] + (1 - keep) * loss
        if place != self.current:
            return
        self.seen += 1
        mastered = self.seen >= self.patience and self.accuracy[place] >= self.threshold
        if mastered and self.current + 1 < len(self.levels):
            self.current, self.seen = self.current + 1, 0

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {
            "level": self.current,
            "target_accuracy": [round(value, 3) for value in self.accuracy],
            "target_loss": [round(value, 3) for value in self.loss],
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        keys = ("current", "drawn", "seen", "accuracy", "loss")
        return {key: getattr(self, key) for key in keys}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        for key, value in state.items():
            setattr(self, key, value)
