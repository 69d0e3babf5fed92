"""Training examples: runs of tokens, of which some may be compressed and some are learnt.

An example is a list of pieces. Passages are pieces of their own, tokenised alone, exactly as the
engine treats spans, so that any share of their chunks can be handed over as vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from refrag_rag.text.chunking import ChunkedPassage

SEPARATOR = "\n\n"  # between passages, and between turns where there is no chat template


@dataclass(frozen=True)
class Piece:
    """A run of tokens, what the loss on them weighs, and whether it may be compressed.

    Attributes
    ----------
    ids
        In the decoder's vocabulary.
    weight
        Of the loss on each of these tokens, 0 for none.
    target
        Whether accuracy, distillation and rewards count these tokens: the gold ones.
    chunked
        Of a passage: its chunks, each of which may stand as a vector.
    """

    ids: Sequence[int]
    weight: float = 0.0
    target: bool = False
    chunked: ChunkedPassage | None = None


def gold(ids: Sequence[int]) -> Piece:
    """Tokens that are to be said: targets of full weight."""
    return Piece(ids, 1.0, target=True)
