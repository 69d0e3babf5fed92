"""The best chunks by a score, as a mask; and policies that are nothing but a score."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import InputError
from refrag_rag.policies.base import Chunks, Policy


class Choice(NamedTuple):
    """What a policy chose.

    Attributes
    ----------
    expanded
        *Shape:* (L,), bool.
    scores
        *Shape:* (L,); what it ranked the chunks by, NaN for those that it never takes. None for a
        policy that does not rank, and where nothing may be expanded.
    """

    expanded: NDArray[np.bool_]
    scores: NDArray[Any] | None = None


class Ranking(ABC):
    """Base of policies that expand the chunks of the highest scores."""

    name: str

    @abstractmethod
    def scores(self, chunks: Chunks, question: str) -> NDArray[Any]:
        """Score the chunks, of which there is at least one.

        Returns
        -------
        ndarray
            *Shape:* (L,); a chunk with NaN is never chosen.
        """

    @final
    def select(self, chunks: Chunks, question: str, limit: int) -> NDArray[np.bool_]:
        """Choose the free chunks of the highest scores, the earlier one on a tie."""
        return choose(self, chunks, question, limit).expanded


def choose(policy: Policy, chunks: Chunks, question: str, limit: int) -> Choice:
    """Let a policy choose, and keep the scores that it chose by, if it ranks.

    Raises
    ------
    InputError
        If what the policy gives is not one bool, or one score, for every chunk.
    """
    count = len(chunks.texts)
    if not isinstance(policy, Ranking):
        mask = policy.select(chunks, question, limit)
        if not (isinstance(mask, np.ndarray) and mask.dtype == bool and mask.shape == (count,)):
            raise _misshapen(policy, "select()", mask, f"an array of {count} bools")
        return Choice(mask)
    if not limit or not count:
        return Choice(np.zeros(count, bool))
    scores = policy.scores(chunks, question)
    numbers = isinstance(scores, np.ndarray) and scores.dtype.kind in "fiu"
    if not (numbers and scores.shape == (count,)):
        raise _misshapen(policy, "scores()", scores, f"an array of {count} numbers")
    return Choice(best(chunks, scores, limit), scores)


def _misshapen(policy: Policy, method: str, given: Any, expected: str) -> InputError:
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", type(given).__name__)
    return InputError(
        f"Policy {policy.name!r}: {method} gave {dtype} of shape {shape}; expected {expected}, one "
        "for each chunk."
    )


def best(chunks: Chunks, scores: NDArray[Any], limit: int) -> NDArray[np.bool_]:
    """The `limit` free chunks of the highest scores, the earlier one on a tie.

    Parameters
    ----------
    scores
        *Shape:* (L,); a chunk with NaN is never chosen.

    Returns
    -------
    ndarray
        *Shape:* (L,), bool.
    """
    mask = np.zeros(len(chunks.texts), bool)
    rows = free(chunks)
    rows = rows[~np.isnan(scores[rows])]
    mask[rows[np.argsort(-scores[rows], kind="stable")[:limit]]] = True
    return mask


def free(chunks: Chunks) -> NDArray[np.intp]:
    """Indices of the chunks that no earlier policy of a chain has taken."""
    if chunks.taken is None:
        return np.arange(len(chunks.texts))
    return np.flatnonzero(~chunks.taken)
