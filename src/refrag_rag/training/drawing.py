"""What a step reads: rows drawn and collated, by the run's own process or ahead by workers."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch.utils.data import DataLoader

from refrag_rag.errors import InputError
from refrag_rag.training.batches import Batch, CollatedRows, share_of
from refrag_rag.training.progress import Progress
from refrag_rag.training.protocols import Foreseeable, Item, Source
from refrag_rag.training.settings import LoopSettings

AHEAD = 2  # steps that each worker has ready
Collate = Callable[[Sequence[Any]], Batch]
Order = tuple[int, float]
"""A step's number, and the share of the run that is done."""


@dataclass(frozen=True)
class Step:
    """The global batch of a step, and this process's micro-batches of it."""

    order: Order
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

    def pin_memory(self) -> "Step":
        """The same, with collated tensors in memory that a GPU reads by itself."""
        pinned = [p.pin_memory() if isinstance(p, CollatedRows) else p for p in self.parts]
        return replace(self, parts=pinned)


@dataclass(frozen=True)
class Drawing:
    """Draws steps. Random numbers depend on seed and step alone, so workers may share the work.

    Attributes
    ----------
    process, processes, size
        Whose micro-batches are cut, among how many, and their most rows.
    collate
        Makes a micro-batch's tensors; None: the objective does it.
    """

    source: Source
    seed: int
    process: int
    processes: int
    size: int
    collate: Collate | None = None

    def __getitem__(self, order: Order) -> Step:
        """The step of this number at this share."""
        rows = self.source.draw(self._random(order), order[1])
        return Step(order, rows, self.parts(rows))

    def parts(self, rows: Sequence[Item]) -> list[Sequence[Any]]:
        """The process's own micro-batches of a global batch."""
        found = share_of(rows, process=self.process, processes=self.processes, size=self.size)
        if self.collate is None:
            return [*found]
        return [CollatedRows(part, self.collate(part)) for part in found]

    def check(self, settings: LoopSettings) -> None:
        """Refuse workers where they would draw other rows than the run itself.

        Raises
        ------
        InputError
            Says why.
        """
        if not settings.workers:
            return
        if not isinstance(self.source, Foreseeable):
            raise InputError(
                f"workers = {settings.workers}, but what is drawn here depends on the steps "
                "before. Use workers = 0."
            )
        if settings.tokens is not None:
            raise InputError(
                f"workers = {settings.workers} with tokens = {settings.tokens}: how far the run "
                "is at a step is known only when those before are drawn. Use steps or minutes."
            )

    def steps(self, settings: LoopSettings, now: Callable[[], Progress]) -> Generator[Step]:
        """The steps that are left, one whenever it is asked for.

        A worker gets the share of the run that is known when a step is ordered: the step's own,
        unless the run is limited by minutes.
        """
        if settings.workers:
            yield from self._from_workers(settings, now)
        while True:
            yield self[now().step, now().share]

    def _from_workers(self, settings: LoopSettings, now: Callable[[], Progress]) -> Iterator[Step]:
        orders = (
            (step, Progress(settings, step, now().seconds).share)
            for step in range(now().step, settings.steps)
        )
        loader: DataLoader[Step] = DataLoader(
            self,  # type: ignore[arg-type]  # all that it asks for is __getitem__
            sampler=orders,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=settings.workers,
            prefetch_factor=AHEAD,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else the run's own random numbers would move on
        )
        for step in loader:
            if isinstance(self.source, Foreseeable):
                self.source.follow(self._random(step.order), step.order[1])
            yield step

    def _random(self, order: Order) -> Random:
        return Random(f"{self.seed}-{order[0]}")


def _as_it_is(step: Any) -> Any:
    return step
