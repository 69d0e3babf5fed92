"""Runs of tokens in documents that lie one behind the other."""

from bisect import bisect_right
from random import Random
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import InputError

Tokens = NDArray[np.unsignedinteger[Any]]
Ids = NDArray[np.int64]


class Packing(Protocol):
    """A way to lay runs of tokens over documents."""

    def starts(self, length: int) -> int:
        """From how many positions a run of `length` tokens can be read."""

    def draw(self, rng: Random, length: int) -> Ids:
        """One of these runs, each as likely as the others, *shape* (length,)."""

    def count(self, length: int) -> int:
        """How many runs of `length` tokens there are that share no token."""

    def at(self, index: int, length: int) -> Ids:
        """The `index`-th of those that share no token, *shape* (length,)."""


class Joined:
    """All documents one behind the other, with a separator after each; runs go across them.

    Parameters
    ----------
    tokens
        *Shape:* (n,), all documents.
    offsets
        *Shape:* (documents + 1,), where each begins and the last one ends.
    separator
        A token id.
    """

    def __init__(self, tokens: Tokens, offsets: Ids, separator: int) -> None:
        self._tokens, self._separator = tokens, separator
        self._marks = offsets[1:] + np.arange(len(offsets) - 1)  # where separators stand

    def __len__(self) -> int:
        """Tokens and separators together."""
        return len(self._tokens) + len(self._marks)

    def read(self, start: int, length: int) -> Ids:
        """Tokens and separators from `start` on, *shape* (length,)."""
        first, last = np.searchsorted(self._marks, (start, start + length)).tolist()
        is_token = np.ones(length, dtype=bool)
        is_token[self._marks[first:last] - start] = False
        found = np.full(length, self._separator, dtype=np.int64)
        found[is_token] = self._tokens[start - first : start + length - last]
        return found

    def starts(self, length: int) -> int:
        """From how many positions a run of `length` tokens can be read."""
        return max(0, len(self) - length + 1)

    def draw(self, rng: Random, length: int) -> Ids:
        """One of these runs, each as likely as the others, *shape* (length,)."""
        return self.read(rng.randrange(self.starts(length)), length)

    def count(self, length: int) -> int:
        """How many runs of `length` tokens there are that share no token."""
        return len(self) // length

    def at(self, index: int, length: int) -> Ids:
        """The `index`-th of those that share no token, *shape* (length,)."""
        return self.read(index * length, length)


class Inside:
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
        self._ends: dict[int, Ids] = {}
        lengths = np.diff(offsets)
        # From the longest on, the documents that are long enough are always the first ones, and
        # one running sum gives the number of starts before each of them for every run length.
        self._order = np.argsort(-lengths, kind="stable")
        self._shorter = -lengths[self._order]
        self._before = np.concatenate(([0], np.cumsum(lengths[self._order])))

    def starts(self, length: int) -> int:
        """From how many positions a run of `length` tokens can be read."""
        return self._starts_before(self._long_enough(length), length)

    def draw(self, rng: Random, length: int) -> Ids:
        """One of these runs, each as likely as the others, *shape* (length,)."""
        places = range(self._long_enough(length) + 1)
        drawn = rng.randrange(self.starts(length))
        place = bisect_right(places, drawn, key=lambda p: self._starts_before(p, length)) - 1
        start = int(self._offsets[self._order[place]])
        return self._read(start + drawn - self._starts_before(place, length), length)

    def count(self, length: int) -> int:
        """How many runs of `length` tokens there are that share no token."""
        return int(self._runs(length)[-1])

    def at(self, index: int, length: int) -> Ids:
        """The `index`-th of those that share no token, *shape* (length,)."""
        ends = self._runs(length)
        document = int(np.searchsorted(ends, index, side="right"))
        before = int(ends[document - 1]) if document else 0
        return self._read(int(self._offsets[document]) + (index - before) * length, length)

    def _runs(self, length: int) -> Ids:
        """Runs in the documents up to each, *shape* (documents,)."""
        if length not in self._ends:
            self._ends[length] = np.cumsum(np.diff(self._offsets) // length)
        return self._ends[length]

    def _long_enough(self, length: int) -> int:
        return int(np.searchsorted(self._shorter, -length, side="right"))

    def _starts_before(self, place: int, length: int) -> int:
        return int(self._before[place]) - place * (length - 1)

    def _read(self, start: int, length: int) -> Ids:
        return self._tokens[start : start + length].astype(np.int64)


class Runs:
    """Runs of `length` tokens that share no token, in order; what is left at the end is out.

    Parameters
    ----------
    packing
        Lays them.
    length
        Tokens of each, at least 1.
    """

    def __init__(self, packing: Packing, length: int) -> None:
        check_length("length", length)
        self._packing, self.length = packing, length
        self._count = packing.count(length)

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def __getitem__(self, index: int) -> Ids:
        """One run, *shape* (length,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"run {index} of {len(self)}")
        return self._packing.at(index % len(self), self.length)


def check_length(name: str, value: int) -> None:
    """Check a number of tokens.

    Raises
    ------
    InputError
        If it is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a whole number of at least 1.")
