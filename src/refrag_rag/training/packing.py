"""Steps of rows: so many of them, or as many of like length as fill a number of positions."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

from refrag_rag.training.batches import Row

STEPS = 8  # whose rows are drawn together, so that there are many of each length
ALIKE = 0.8  # of a batch's longest row

MakeRow = Callable[[Random, float], Row]
"""Draws one row; `share` (0 to 1) of the run is done. It depends on its arguments alone."""


class Drawn:
    """A source of rows that come one by one; it keeps running figures of their targets.

    Parameters
    ----------
    row
        Draws a row.
    batch_size
        Rows of a step.
    """

    def __init__(self, row: MakeRow, *, batch_size: int) -> None:
        self.row, self.batch_size = row, batch_size
        self.figures: dict[str, float] = {}

    def draw(self, rng: Random, share: float) -> list[Row]:
        """Rows of one step."""
        return [self.row(rng, share) for _ in range(self.batch_size)]

    def block(self, rng: Random, share: float) -> list[list[Row]]:
        """One step."""
        return [self.draw(rng, share)]

    def record(self, loss: float, accuracy: float) -> None:
        """Keep running figures; a step without targets (NaN) changes nothing."""
        for name, value in (("target_loss", loss), ("target_accuracy", accuracy)):
            if not math.isnan(value):
                self.figures[name] = 0.95 * self.figures.get(name, value) + 0.05 * value

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {name: round(value, 4) for name, value in self.figures.items()}

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"figures": self.figures}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.figures = dict(state["figures"])


class Packed(Drawn):
    """Steps that hold as many rows of like length as fill a number of positions.

    The rows of several steps, a block, are drawn together, sorted by length and cut.

    Parameters
    ----------
    row
        Draws a row.
    positions
        Of a step, padding included. A row that is longer stands alone.
    """

    def __init__(self, row: MakeRow, *, positions: int) -> None:
        super().__init__(row, batch_size=0)
        self.positions = positions

    def block(self, rng: Random, share: float) -> list[list[Row]]:
        """About `STEPS` steps."""
        rows: list[Row] = []
        room = STEPS * self.positions
        while room > 0:
            rows.append(self.row(rng, share))
            room -= rows[-1].tokens
        batches = cut(rows, self.positions)
        rng.shuffle(batches)
        return batches


def cut(rows: list[Row], positions: int) -> list[list[Row]]:
    """Batches of like length that fill the positions, the longest rows first.

    A batch that is half full ends before a much shorter row. The last one, of the shortest rows, is
    left out where it is not half full.
    """
    batches: list[list[Row]] = []
    longest = taken = 0
    for row in sorted(rows, key=lambda one: -one.tokens):
        half = taken > positions / 2
        if not batches or taken + longest > positions or (half and row.tokens < ALIKE * longest):
            batches.append([])
            longest, taken = row.tokens, 0
        batches[-1].append(row)
        taken += longest
    return batches if taken > positions / 2 or len(batches) == 1 else batches[:-1]
