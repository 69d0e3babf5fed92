"""What a policy sees and gives. It sees tensors and text, never the model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from refrag_rag.errors import InputError

QUESTION = "question"  # what a policy needs to be given `Chunks.question`


@dataclass(frozen=True, eq=False)
class Chunks:
    """All L chunks of a prompt, in order.

    Attributes
    ----------
    texts
        L chunk texts.
    passages
        *Shape:* (L,), integer; which passage (span) of the prompt a chunk belongs to, ascending.
    embeddings
        *Shape:* (L, D_enc)
    scores
        Per-chunk scores from the store, each *shape* (L,). Those that the policy needs are always
        there, NaN in passages for which they are not known; others only where all passages have
        them.
    retrieval
        The retrieval score of each passage, where it is known; higher is better.
    question
        *Shape:* (Q, D_enc); chunk embeddings of the question, if the policy needs ``question``.
    taken
        *Shape:* (L,), bool; in a chain, the chunks that earlier policies chose. To choose them
        again gains nothing.
    """

    texts: Sequence[str]
    passages: NDArray[Any]
    embeddings: NDArray[Any]
    scores: Mapping[str, NDArray[Any]]
    retrieval: Sequence[float | None]
    question: NDArray[Any] | None = None
    taken: NDArray[np.bool_] | None = None

    def runs(self) -> list[tuple[int, int]]:
        """First chunk, and the one behind the last, of every passage that has chunks."""
        starts = np.flatnonzero(np.diff(self.passages, prepend=-1)).tolist()
        return list(zip(starts, [*starts[1:], len(self.passages)], strict=False))


class Policy(Protocol):
    """Chooses the chunks to expand.

    A policy that lives on more than texts and embeddings says so in an attribute ``needs``, a set
    of names: those of scores (``perplexity``), which the engine then computes where the store has
    them not, and ``question`` for the question's chunk embeddings. Without the attribute it needs
    nothing.
    """

    name: str

    def select(self, chunks: Chunks, question: str, limit: int) -> NDArray[Any]:
        """Choose.

        Returns
        -------
        ndarray
            *Shape:* (L,), bool; at most `limit` True.
        """


def needs_of(policy: Policy) -> frozenset[str]:
    """What a policy says it needs.

    Raises
    ------
    InputError
        If ``needs`` is not a set of names.
    """
    needs = getattr(policy, "needs", ())
    several = isinstance(needs, Collection) and not isinstance(needs, str)
    if not several or not all(isinstance(name, str) for name in needs):
        raise InputError(
            f"needs = {needs!r} of policy {policy.name!r}; expected a set of names, such as "
            "frozenset({'perplexity'})."
        )
    return frozenset(needs)


def limit_of(p: float, chunks: int) -> int:
    """How many of `chunks` a fraction p allows: rounded, and at least one when p > 0.

    Raises
    ------
    InputError
        If p is not between 0 and 1.
    """
    if isinstance(p, bool) or not isinstance(p, Real) or not 0 <= p <= 1:
        raise InputError(f"p = {p!r}; expected a fraction of the chunks between 0 and 1.")
    if p == 0 or chunks == 0:
        return 0
    return max(1, round(p * chunks))
