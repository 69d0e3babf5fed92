"""Steps of rows: so many of them, or as many of like length as fill a number of positions."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from refrag_rag.training.batches import Row

ALIKE = 0.8  # of a batch's longest row
STEPS = 8  # whose rows are drawn together, so that there are many of each length

MakeRow = Callable[[Random, float], Row]
"""Draws one row; `share` (0 to 1) of the run is done. It depends on its arguments alone."""
Order = tuple[int, float]  # a block's number, and the share of the run when it was ordered


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

    def record(self, loss: float, accuracy: float) -> None:
        """Keep running figures; a step without targets (NaN) changes nothing."""
        self._keep("target_loss", loss)
        self._keep("target_accuracy", accuracy)

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""
        return {name: round(value, 4) for name, value in self.figures.items()}

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"figures": self.figures}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.figures = dict(state["figures"])

    def _keep(self, name: str, value: float) -> None:
        if not math.isnan(value):
            self.figures[name] = 0.95 * self.figures.get(name, value) + 0.05 * value


@dataclass(frozen=True)
class Blocks(Dataset[list[list[Row]]]):
    """Batches of several steps by what they depend on: seed, number of the block, share of the run.

    Attributes
    ----------
    row
        Draws a row.
    positions
        Of a batch, padding included. A row that is longer stands alone.
    """

    row: MakeRow
    positions: int
    seed: int

    def __getitem__(self, order: Order) -> list[list[Row]]:
        """The batches of one block."""
        number, share = order
        rng = Random(f"{self.seed}-block-{number}")
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


class Packed(Drawn):
    """Steps that hold as many rows of like length as fill a number of positions.

    The rows of several steps, a block, are drawn together, sorted by length and cut. Blocks can be
    drawn ahead by other processes, and a run that goes on draws the same ones.

    Parameters
    ----------
    row, positions, seed
        See `Blocks`.
    workers
        Processes that draw ahead; without any, rows are drawn when they are needed.
    """

    def __init__(self, row: MakeRow, *, positions: int, seed: int, workers: int = 0) -> None:
        super().__init__(row, batch_size=0)
        self._batches: list[list[Row]] = []
        self._place, self._share, self._next = 0, 0.0, 0
        self._again: list[Order] = []  # ordered before the run was stopped
        self._ordered: deque[Order] = deque()  # the first is the block that is being read
        loader = DataLoader(
            Blocks(row, positions, seed),
            sampler=self._orders(),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=1 if workers else None,
            generator=torch.Generator(),  # of its own: the step's random numbers stay what they are
        )
        self._blocks = loader
        self._drawn: Iterator[list[list[Row]]] | None = None

    def draw(self, rng: Random, share: float) -> list[Row]:  # noqa: ARG002
        """The next batch."""
        self._share = share
        if self._place == len(self._batches):
            if self._batches:
                self._ordered.popleft()
            self._read()
        batch = self._batches[self._place]
        self._place += 1
        tokens = [row.tokens for row in batch]
        self._keep("fill", sum(tokens) / (len(tokens) * max(tokens)))
        return batch

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {**super().state(), "orders": list(self._ordered), "place": self._place}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        super().restore(state)
        self._again = [(number, share) for number, share in state["orders"]]
        self._next = self._again[-1][0] + 1 if self._again else 0
        if self._again:
            self._read()
        self._place = state["place"]

    def _read(self) -> None:
        if self._drawn is None:
            self._drawn = iter(self._blocks)
        self._batches, self._place = next(self._drawn), 0

    def _orders(self) -> Iterator[Order]:
        while True:
            order = self._again.pop(0) if self._again else (self._next, self._share)
            self._next = max(self._next, order[0] + 1)
            self._ordered.append(order)
            yield order


def _as_it_is(block: list[list[Row]]) -> list[list[Row]]:
    return block
