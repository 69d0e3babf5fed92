"""Growing chunks: a vector stands for one token at first and for k in the end.

A decoder that reads text finds its way into vectors of one token within minutes. Each further
token a chunk is a small step from there, while eight at once are a large one.
"""

import math
from random import Random
from typing import Any


class ChunkGrowth:
    """Draws chunk sizes: mostly the largest reached, the rest from those below it.

    Parameters
    ----------
    k
        Size to reach.
    start
        Size to start at; k at once by default.
    threshold
        Running accuracy of rebuilt tokens at which the current size counts as mastered.
    patience
        Least number of recorded steps of a size before it can be left.
    """

    def __init__(
        self, k: int, *, start: int | None = None, threshold: float = 0.87, patience: int = 40
    ) -> None:
        self.k, self.threshold, self.patience = k, threshold, patience
        self.current = self.drawn = start or k
        self.seen = 0
        self.accuracy = dict.fromkeys(range(1, k + 1), 0.0)

    @property
    def grown(self) -> bool:
        """Whether chunks have their full size."""
        return self.current == self.k

    def draw(self, rng: Random) -> int:
        """Draw the chunk size of the next step."""
        below = rng.random() < 0.15 and not self.grown
        self.drawn = rng.randint(1, self.current) if below else self.current
        return self.drawn

    def record(self, accuracy: float) -> None:
        """Take note of a reconstruction step; grow when the current size is mastered."""
        if math.isnan(accuracy):
            return
        old = self.accuracy[self.drawn]
        self.accuracy[self.drawn] = 0.95 * old + 0.05 * accuracy if old else accuracy
        if self.drawn != self.current:
            return
        self.seen += 1
        mastered = self.seen >= self.patience and self.accuracy[self.current] >= self.threshold
        if mastered and not self.grown:
            self.current, self.seen = self.current + 1, 0

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        known = {size: round(value, 3) for size, value in self.accuracy.items() if value}
        return {"k": self.current, "accuracy_by_k": known}

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        keys = ("current", "drawn", "seen", "accuracy")
        return {key: getattr(self, key) for key in keys}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.current, self.drawn, self.seen = (state[n] for n in ("current", "drawn", "seen"))
        # JSON has turned the sizes into text
        self.accuracy = {int(n): value for n, value in state["accuracy"].items()}
