"""Bad records: an error that names file, line and field, or a count of what was left out."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar, get_args

from refrag_rag.errors import InputError

OnBad = Literal["raise", "skip"]
LOGGED = 3

Raw = TypeVar("Raw")
Made = TypeVar("Made")
logger = logging.getLogger(__name__)


class BadRecordError(InputError):
    """A record that cannot be used.

    Parameters
    ----------
    message
        Names file, line and field.
    reason
        What bad records are counted by, such as ``text: empty``.
    """

    def __init__(self, message: str, reason: str = "bad record") -> None:
        super().__init__(message)
        self.reason = reason

    @classmethod
    def at(cls, place: str, reason: str, found: str, expected: str) -> "BadRecordError":
        """Build the error from where it stands, what stands there and what should."""
        return cls(
            f"{place}: {found}; expected {expected}. Correct the record, or leave bad records out "
            "with on_bad='skip'.",
            reason,
        )


class Skipped:
    """Counts the records that were left out, by reason. The first of each reason are logged."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many records were left out."""
        return self._counts.total()

    @property
    def reasons(self) -> dict[str, int]:
        """How many records were left out for each reason."""
        return dict(sorted(self._counts.items()))

    def add(self, reason: str, message: str) -> None:
        """Count one record."""
        self._counts[reason] += 1
        if self._counts[reason] <= LOGGED:
            logger.warning("left out: %s", message)
        elif self._counts[reason] == LOGGED + 1:
            logger.warning("further records with %r are counted, not logged", reason)


def sift(
    items: Iterable[Raw], make: Callable[[Raw], Made], *, on_bad: OnBad, skipped: Skipped
) -> Iterator[Made]:
    """What `make` makes of each item.

    Parameters
    ----------
    items
        What is read.
    make
        Raises `BadRecordError` for an item that cannot be used.
    on_bad
        ``raise`` lets that error through, ``skip`` counts it in `skipped`.
    skipped
        The counts.
    """
    for item in items:
        try:
            made = make(item)
        except BadRecordError as error:
            if on_bad == "raise":
                raise
            skipped.add(error.reason, str(error))
        else:
            yield made


def check_on_bad(on_bad: str) -> None:
    """Check the option.

    Raises
    ------
    InputError
        If it is neither ``raise`` nor ``skip``.
    """
    if on_bad not in get_args(OnBad):
        raise InputError(f"on_bad is {on_bad!r}; expected 'raise' or 'skip'.")
