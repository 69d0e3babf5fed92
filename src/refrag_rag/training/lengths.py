"""The paper's length curriculum (REFRAG, Table 8): many short examples first, long ones later."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from refrag_rag.errors import InputError

STAGES = 9
SHORT = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """Data points of one context length, stage by stage: a geometric sequence."""

    first: float
    ratio: float

    @property
    def total(self) -> float:
        """Data points of all stages together."""
        return self.first * _sum(self.ratio)

    def at(self, stage: int) -> float:
        """Data points of a stage, counted from zero."""
        return self.first * self.ratio**stage


# Chunks in the context. The first counts are the paper's, and each ratio is the one with which the
# row adds up to the paper's sum (2000, 4000 or 8000) before rounding: this gives every count that
# is printed there, rounded to the nearest.
TABLE_8 = {
    1: TableRow(first=1333, ratio=0.333534),
    2: TableRow(first=333, ratio=0.894612),
    4: TableRow(first=83, ratio=1.234149),
    8: TableRow(first=20, ratio=1.744959),
    16: TableRow(first=5, ratio=2.130849),
    32: TableRow(first=1, ratio=2.658592),
    64: TableRow(first=1, ratio=2.918179),
    128: TableRow(first=1, ratio=2.918179),
    256: TableRow(first=1, ratio=2.918179),
}


def table(maximum: int) -> dict[int, TableRow]:
    """Table 8 for contexts of up to `maximum` chunks; 256 gives the paper's own.

    The lengths are 1, 2, 4, ... and the maximum itself. Each length gets the row that stands at
    the same place of the paper's table, by logarithm: the longest one the last row, and so on;
    between two rows, sum and ratio are interpolated. A table of one length is even. The chunk size
    changes nothing but the tokens that a length stands for.

    Raises
    ------
    InputError
        If the maximum is below one.
    """
    if maximum < 1:
        raise InputError(f"A longest context of {maximum} chunks; expected at least 1.")
    doubled = [2**power for power in range(maximum.bit_length())]
    return {length: _row(length, maximum) for length in sorted({*doubled, maximum})}


def stage_counts(maximum: int) -> dict[int, list[int]]:
    """Data points of each length in each of the nine stages, as the paper prints them."""
    return {
        length: [math.floor(row.at(stage) + 0.5) for stage in range(STAGES)]
        for length, row in table(maximum).items()
    }


def stage_at(share: float) -> int:
    """The stage, counted from zero, once `share` (0 to 1) of the training is done."""
    if not share >= 0:  # NaN as well
        raise InputError(f"A share of {share} of the training is done; expected 0 to 1.")
    return min(STAGES - 1, int(min(share, 1.0) * STAGES))


class LengthCurriculum:
    """Draws context lengths in chunks and keeps the running accuracy of each.

    Parameters
    ----------
    lengths
        Numbers of chunks to draw from: by default those of the maximum's table, or 1 to 16.
    maximum
        Longest context, in chunks: the table is scaled to it. By default the lengths have the
        rows they have in the paper's table.

    Raises
    ------
    InputError
        If a length has no row in the table.
    """

    def __init__(self, lengths: Sequence[int] | None = None, *, maximum: int | None = None) -> None:
        rows = TABLE_8 if maximum is None else table(maximum)
        if lengths is None:
            lengths = SHORT if maximum is None else tuple(rows)
        if not lengths or not set(lengths) <= rows.keys():
            raise InputError(
                f"Lengths {list(lengths)} in chunks; expected some of {list(rows)}. Choose among "
                "these, or give the longest context as the maximum."
            )
        self.lengths = tuple(lengths)
        self.table = [[rows[n].at(stage) for n in self.lengths] for stage in range(STAGES)]
        self.drawn = self.lengths[0]
        self.accuracy: dict[int, float] = {}
        self.loss: dict[int, float] = {}

    def weights(self, share: float) -> list[float]:
        """How often each length is drawn once `share` (0 to 1) of the training is done."""
        return self.table[stage_at(share)]

    def draw(self, rng: Random, share: float) -> int:
        """Draw the length of the next step (to be followed by one `record`)."""
        self.drawn = rng.choices(self.lengths, self.weights(share))[0]
        return self.drawn

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of the step's result; a step without targets (NaN) does not count."""
        for figures, value in ((self.accuracy, accuracy), (self.loss, loss)):
            if not math.isnan(value):
                old = figures.get(self.drawn)
                figures[self.drawn] = value if old is None else 0.95 * old + 0.05 * value

    def summary(self) -> dict[str, Any]:
        """Figures for the log, of the lengths that were drawn."""
        return {"accuracy": rounded(self.accuracy), "target_loss": rounded(self.loss)}

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {name: getattr(self, name) for name in ("drawn", "accuracy", "loss")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.drawn = state["drawn"]
        self.accuracy, self.loss = by_length(state["accuracy"]), by_length(state["loss"])


def rounded(figures: dict[int, float]) -> dict[int, float]:
    """Figures by length as the log shows them."""
    return {length: round(value, 3) for length, value in sorted(figures.items())}


def by_length(figures: dict[Any, float]) -> dict[int, float]:
    """Figures by length; JSON has turned the lengths into text."""
    return {int(length): value for length, value in figures.items()}


def _sum(ratio: float) -> float:
    return sum(ratio**stage for stage in range(STAGES))


def _row(length: int, maximum: int) -> TableRow:
    if maximum == 1:
        return TableRow(first=TABLE_8[1].total / STAGES, ratio=1.0)
    rows = list(TABLE_8.values())
    place = math.log2(length) / math.log2(maximum) * (len(rows) - 1)
    below = min(int(place), len(rows) - 2)
    part = place - below
    if part in (0.0, 1.0):  # a row of the paper, to the last digit
        return rows[below + int(part)]
    low, high = rows[below], rows[below + 1]
    ratio = low.ratio ** (1 - part) * high.ratio**part
    total = low.total ** (1 - part) * high.total**part
    return TableRow(first=total / _sum(ratio), ratio=ratio)
