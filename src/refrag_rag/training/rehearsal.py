"""Rows of other kinds between a stage's own, so that what was learnt before is not forgotten."""

from dataclasses import replace
from random import Random

from refrag_rag.model import RefragModel
from refrag_rag.training.batches import Row
from refrag_rag.training.chunk_sizes import ChunkSizes
from refrag_rag.training.curricula import build_curriculum
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.document_sources import DocumentChunks, DocumentContinuation
from refrag_rag.training.packing import MakeRow

CONTINUING = 0.3  # of what is rehearsed; the rest is rebuilt


class Rehearsal:
    """Text that is rebuilt or continued, between rows of a stage's own.

    Its tokens weigh little, since there are many of them, and are no targets: figures and
    distillation are of the stage's own rows.

    Parameters
    ----------
    own
        Draws the stage's own rows.
    share
        Of all rows that are rehearsed.
    weight
        Of the loss on a rehearsed token.
    chunks
        Of a rehearsed row.
    """

    def __init__(
        self,
        own: MakeRow,
        documents: Documents,
        model: RefragModel,
        sizes: ChunkSizes,
        *,
        share: float,
        weight: float,
        chunks: int,
    ) -> None:
        self.own, self.share, self.weight = own, share, weight
        lengths = build_curriculum("longest", chunks=chunks)
        self.rebuilt = DocumentChunks(documents, model, lengths, sizes=sizes, asked=True)
        self.continued = DocumentContinuation(
            documents,
            model,
            lengths,
            following=chunks * model.config.k,
            text_shares=(0.0,),
            sizes=sizes,
            asked=True,
        )

    def row(self, rng: Random, share: float) -> Row:
        """One row of any kind."""
        if rng.random() >= self.share:
            return self.own(rng, share)
        kind = self.continued if rng.random() < CONTINUING else self.rebuilt
        row = kind.row(rng, share)
        weights = tuple(self.weight * weight for weight in row.weights)
        return replace(row, weights=weights, targets=(False,) * len(weights))
