"""What a step reads: rows drawn and collated, by the run's own process or ahead by workers."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from random import Random
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from refrag_rag.errors import InputError
from refrag_rag.training.batches import Batch, CollatedRows
from refrag_rag.training.protocols import Foreseeable, Item, Source

Collate = Callable[[Sequence[Any]], Batch]
Order = tuple[int, float]
"""A block's number, and the share of the run that was done when it was ordered."""


@dataclass(frozen=True)
class Step:
    """The global batch of a step, and this process's micro-batches of it."""

    rows: Sequence[Item]
    parts: Sequence[Sequence[Any]]

    @cached_property
    def weight(self) -> float:
        """What its losses are divided by."""
        return sum(row.weight for row in self.rows)

    @cached_property
    def tokens(self) -> int:
        """Positions of all its rows."""
        return sum(row.tokens for row in self.rows)

    @cached_property
    def fill(self) -> float:
        """Share of the positions of this process's micro-batches that are no padding."""
        tokens = [[int(row.tokens) for row in part] for part in self.parts]
        return sum(map(sum, tokens)) / max(1, sum(len(part) * max(part) for part in tokens))

    def pin_memory(self) -> "Step":
        """The same, with collated tensors in memory that a GPU reads by itself."""
        pinned = [p.pin_memory() if isinstance(p, CollatedRows) else p for p in self.parts]
        return replace(self, parts=pinned)


@dataclass(frozen=True)
class Cutting:
    """How a process cuts its micro-batches out of a global batch.

    Attributes
    ----------
    process, processes, size
        Whose, among how many, and the most rows of one.
    collate
        Makes a micro-batch's tensors; None: the objective does it.
    """

    process: int
    processes: int
    size: int
    collate: Collate | None = None

    def step(self, rows: Sequence[Item]) -> Step:
        """A global batch with the process's own micro-batches."""
        return Step(rows, self.parts(rows))

    def parts(self, rows: Sequence[Item]) -> list[Sequence[Any]]:
        """The process's own micro-batches."""
        found = share_of(rows, process=self.process, processes=self.processes, size=self.size)
        if self.collate is None:
            return [*found]
        return [CollatedRows(part, self.collate(part)) for part in found]


@dataclass(frozen=True)
class Blocks(Dataset[list[Step]]):
    """The steps of a block by what they depend on: seed, number of the block, share of the run."""

    source: Foreseeable
    seed: int
    cutting: Cutting

    def __getitem__(self, order: Order) -> list[Step]:
        """The steps of one block."""
        number, share = order
        batches = self.source.block(Random(f"{self.seed}-{number}"), share)
        return [self.cutting.step(rows) for rows in batches]


class Drawing:
    """The steps of a run, one after another.

    Random numbers depend on the seed and on the number of the step, or of the block, alone. A block
    that was ordered ahead by workers has the share of the run at which it was ordered; the state
    has these shares, so that a run that goes on draws the same rows.

    Parameters
    ----------
    workers
        Processes that draw and collate ahead; without any, the run does it.

    Raises
    ------
    InputError
        If workers are asked for and what is drawn depends on the steps before.
    """

    def __init__(self, source: Source, *, seed: int, cutting: Cutting, workers: int) -> None:
        self.source, self.cutting, self._seed = source, cutting, seed
        self._block: list[Step] = []
        self._place, self._share, self._next = 0, 0.0, 0
        self._again: list[Order] = []  # ordered before the run was stopped
        self._ordered: deque[Order] = deque()  # the first is the block that is being read
        self._blocks: DataLoader[list[Step]] | None = None
        self._drawn: Iterator[list[Step]] | None = None
        if isinstance(source, Foreseeable):
            self._blocks = DataLoader(
                Blocks(source, seed, cutting),
                sampler=self._orders(),
                batch_size=None,
                collate_fn=_as_it_is,
                num_workers=workers,
                prefetch_factor=1 if workers else None,
                pin_memory=bool(workers) and torch.cuda.is_available(),
                generator=torch.Generator(),  # else the run's own random numbers would move on
            )
        elif workers:
            raise InputError(
                f"workers = {workers}, but what is drawn here depends on the steps before. Use "
                "workers = 0."
            )

    def next(self, step: int, share: float) -> Step:
        """The step of this number, which comes after the one before; `share` of the run is done."""
        if self._blocks is None:
            return self.cutting.step(self.source.draw(Random(f"{self._seed}-{step}"), share))
        self._share = share
        if self._place == len(self._block):
            if self._block:
                self._ordered.popleft()
            self._read(self._blocks)
        self._place += 1
        return self._block[self._place - 1]

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {"orders": list(self._ordered), "place": self._place}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._again = [(number, share) for number, share in state["orders"]]
        if self._again and self._blocks is not None:
            self._read(self._blocks)
            self._place = state["place"]

    def close(self) -> None:
        """End the workers. Left to the garbage collector they would be waited for in vain."""
        self._drawn = None

    def _read(self, blocks: DataLoader[list[Step]]) -> None:
        if self._drawn is None:
            self._drawn = iter(blocks)
        self._block, self._place = next(self._drawn), 0

    def _orders(self) -> Iterator[Order]:
        while True:
            order = self._again.pop(0) if self._again else (self._next, self._share)
            self._next = order[0] + 1
            self._ordered.append(order)
            yield order


def _as_it_is(block: list[Step]) -> list[Step]:
    return block


def share_of(rows: Sequence[Any], *, process: int, processes: int, size: int) -> list[list[Any]]:
    """What one of several processes reads of a global batch, cut into micro-batches.

    All processes get as many micro-batches of as many rows, since they compute together; silent
    rows fill the gaps. Rows of about one length come together, so that little is padded.
    """
    per_process = -(-len(rows) // processes)
    count = -(-per_process // size)
    own = list(sorted(rows, key=attrgetter("tokens"))[process::processes])
    own += [rows[0].silent()] * (per_process - len(own))
    step = -(-per_process // count)
    return [own[start : start + step] for start in range(0, per_process, step)]
