"""What the loop asks of a stage: where its items come from, and their loss."""

from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from torch import nn

from refrag_rag.training.loss import Sums


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


class Source(Protocol):
    """Where the items of a step come from, with the curriculum that chooses them.

    All processes draw the same items and record the same figures, so they stay in step.
    """

    def draw(self, rng: Random, share: float) -> Sequence[Any]:
        """The global batch of one step; `share` (0 to 1) of the run is done."""

    def record(self, loss: float, accuracy: float) -> None:
        """Take note of the target loss and accuracy (NaN without targets) of that step."""

    def summary(self) -> dict[str, Any]:
        """Figures for the log."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


class Objective(Protocol):
    """The loss of a micro-batch; `everything` is the global batch it belongs to."""

    def __call__(self, module: nn.Module, rows: Sequence[Any], everything: Sequence[Any]) -> Sums:
        """Sum the losses."""
