"""Expand the chunks that the decoder finds hardest to foresee."""

from typing import Any

from numpy.typing import NDArray

from refrag_rag.errors import InputError
from refrag_rag.policies.base import Chunks
from refrag_rag.policies.ranking import Ranking

SCORE = "perplexity"


class ExpandPerplexity(Ranking):
    """The chunks of the highest perplexity under the decoder, whatever the question.

    One of the heuristics that the REFRAG paper compares its learned policy with. The score is made
    when a passage is indexed, or when it is first needed; chunks without one are never expanded.
    """

    name = "perplexity"
    needs = frozenset({SCORE})

    def scores(self, chunks: Chunks, question: str) -> NDArray[Any]:  # noqa: ARG002
        """The stored scores.

        Raises
        ------
        InputError
            If the chunks come without the score.
        """
        scores: NDArray[Any] | None = chunks.scores.get(SCORE)
        if scores is None:
            raise InputError(
                f"Chunks with the scores {sorted(chunks.scores)}; policy 'perplexity' expected "
                "'perplexity'. Ask through an engine, which computes it."
            )
        return scores
