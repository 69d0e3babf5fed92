"""Runs of tokens in documents that lie one behind the other."""

from bisect import bisect_right
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import InputError

Tokens = NDArray[np.unsignedinteger[Any]]
Ids = NDArray[np.int64]


class Runs:
    """Runs that never leave a document; shorter documents have none.

    Parameters
    ----------
    tokens
        *Shape:* (n,), all documents.
    offsets
        *Shape:* (documents + 1,), where each begins and the last one ends.
    """

    def __init__(self, tokens: Tokens, offsets: Ids) -> None:
        self._tokens, self._offsets = tokens, offsets
        lengths = np.diff(offsets)
        # From the longest on, the documents that are long enough are always the first ones, and
        # one running sum gives the number of starts before each of them for every run length.
        self._order = np.argsort(-lengths, kind="stable")
        self._shorter = -lengths[self._order]
        self._before = np.concatenate(([0], np.cumsum(lengths[self._order])))

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return -int(self._shorter[0])

    def starts(self, length: int) -> int:
        """From how many positions a run of `length` tokens can be read."""
        return self._starts_before(self._long_enough(length), length)

    def draw(self, rng: Random, length: int) -> Ids:
        """One of these runs, each as likely as the others, *shape* (length,)."""
        places = range(self._long_enough(length) + 1)
        drawn = rng.randrange(self.starts(length))
        place = bisect_right(places, drawn, key=lambda p: self._starts_before(p, length)) - 1
        start = int(self._offsets[self._order[place]])
        start += drawn - self._starts_before(place, length)
        return self._tokens[start : start + length].astype(np.int64)

    def _long_enough(self, length: int) -> int:
        return int(np.searchsorted(self._shorter, -length, side="right"))

    def _starts_before(self, place: int, length: int) -> int:
        return int(self._before[place]) - place * (length - 1)


def check_length(name: str, value: int) -> None:
    """Check a number of tokens.

    Raises
    ------
    InputError
        If it is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a whole number of at least 1.")
