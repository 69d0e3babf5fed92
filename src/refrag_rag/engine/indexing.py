"""What an engine does with passages before they are asked for: keep, encode, forget."""

from collections.abc import Iterable, Sequence

from numpy.typing import ArrayLike
from torch import Tensor

from refrag_rag.engine.embeddings import keep_embeddings
from refrag_rag.engine.lookup import PassageLookup
from refrag_rag.engine.precompute import precompute
from refrag_rag.engine.scoring import SCORERS
from refrag_rag.generation.answer import PrecomputeReport
from refrag_rag.generation.request import check_batch_size, checked_texts
from refrag_rag.model import RefragModel
from refrag_rag.policies import Policy, needs_of
from refrag_rag.spans import neutralise
from refrag_rag.store import ChunkStore, passage_key


class Indexing:
    """Passages of one model in one store."""

    model: RefragModel
    store: ChunkStore
    policy: Policy
    scores: frozenset[str]
    _lookup: PassageLookup

    @property
    def namespace(self) -> str:
        """Name under which this model's chunk embeddings are stored."""
        return self._lookup.namespace

    def precompute(
        self, texts: Iterable[str], *, batch_size: int = 64, progress: bool = False
    ) -> PrecomputeReport:
        """Encode passages that the store has not, and keep them. Calling again costs nothing.

        Scores that the engine was built with, and those of its policy, are computed and kept too.
        A run that was killed goes on from the last group that was kept. A store that was opened
        read-only takes nothing: what it has not is logged.

        Parameters
        ----------
        texts
            Passages, as they will stand in spans.
        batch_size
            Encoder windows at once.
        progress
            Show a bar with passages per second and an estimate.

        Raises
        ------
        StoreError
            If there is something to keep and the store cannot be written.
        InputError
            If an argument cannot be used.
        """
        return precompute(
            self.model,
            self._lookup,
            checked_texts(texts),
            needs=self.scores | (needs_of(self.policy) & set(SCORERS)),
            batch_size=check_batch_size(batch_size),
            progress=progress,
        )

    def keep_embeddings(self, texts: Sequence[str], embeddings: ArrayLike | Tensor) -> None:
        """Keep passage embeddings that exist already, such as a vector database's.

        They take the place of what the encoder would make, so they must come from that model, or
        from the one whose vectors the projector was trained on. Nothing here can tell them from
        others of the same width.

        Parameters
        ----------
        texts
            Passages, as they will stand in spans.
        embeddings
            *Shape:* (N, D_enc); of each passage one, in the same order.

        Raises
        ------
        InputError
            If the model's chunks are not whole passages, or number, width or values do not fit.
        StoreError
            If the store cannot be written.
        """
        keep_embeddings(self.model, self._lookup, checked_texts(texts), embeddings)

    def forget(self, texts: Iterable[str], *, living: Iterable[str] = ()) -> int:
        """Remove passages from the store, as of deleted documents; gives the number of entries.

        Documents with the same passage share one entry; one that was removed too early is made
        again when it is next asked for. The bytes stay in the file until `LMDBStore.compact`.

        Parameters
        ----------
        texts
            Passages, as they stood in spans.
        living
            Passages of documents that stay; what is among them is kept.

        Raises
        ------
        StoreError
            If the store cannot be written.
        """
        gone, stay = (set(map(neutralise, checked_texts(some))) for some in (texts, living))
        return self.store.delete(self.namespace, sorted(map(passage_key, gone - stay)))
