"""What a policy sees and gives. It sees tensors and text, never the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from refrag_rag.errors import InputError


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
        Per-chunk scores from the store, each *shape* (L,).
    retrieval
        The retrieval score of each passage, where it is known.
    """

    texts: Sequence[str]
    passages: NDArray[Any]
    embeddings: NDArray[Any]
    scores: Mapping[str, NDArray[Any]]
    retrieval: Sequence[float | None]


class Policy(Protocol):
    """Chooses the chunks to expand."""

    name: str

    def select(self, chunks: Chunks, question: str, budget: int) -> NDArray[Any]:
        """Choose.

        Returns
        -------
        ndarray
            *Shape:* (L,), bool; at most `budget` True.
        """


def budget(p: float, chunks: int) -> int:
    """How many of `chunks` a fraction p allows: rounded, and at least one when p > 0.

    Raises
    ------
    InputError
        If p is not between 0 and 1.
    """
    if not 0 <= p <= 1:
        raise InputError(f"p = {p!r}; expected a fraction of the chunks between 0 and 1.")
    if p == 0 or chunks == 0:
        return 0
    return max(1, round(p * chunks))
