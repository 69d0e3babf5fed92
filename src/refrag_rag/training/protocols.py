"""What the loop asks of a stage: where its items come from, and in which order."""

from collections.abc import Sequence
from random import Random
from typing import Any, Protocol, runtime_checkable


class Item(Protocol):
    """One example of a step: a `Row`, or what a stage reads instead."""

    @property
    def weight(self) -> float:
        """What its loss is divided by, together with the others'."""

    @property
    def tokens(self) -> int:
        """Positions that it takes, for the log."""

    @property
    def origin(self) -> str:
        """Where it comes from, for messages."""

    def silent(self) -> "Item":
        """The same without any loss: it fills a place where a process has too few."""


class Curriculum(Protocol):
    """What changes during a run, led by its figures. All processes record the same ones."""

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of the target loss and accuracy (NaN without targets) of a step."""

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


class Source(Curriculum, Protocol):
    """Where the items of a step come from; all processes draw the same ones."""

    def draw(self, rng: Random, share: float) -> Sequence[Any]:
        """The global batch of one step; `share` (0 to 1) of the run is done."""


@runtime_checkable
class Foreseeable(Protocol):
    """What a source has whose draws depend on their arguments alone: workers may draw ahead."""

    def block(self, rng: Random, share: float) -> Sequence[Sequence[Any]]:
        """The global batches of some steps, one after another."""


class Lengths(Curriculum, Protocol):
    """A curriculum of context lengths, in chunks."""

    def draw(self, rng: Random, share: float) -> int:
        """The length of the next step."""
