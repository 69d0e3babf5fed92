"""Rows from users' own text: reconstruction and continuation at the curriculum's lengths."""

from abc import ABC, abstractmethod
from random import Random
from typing import Any

from refrag_rag.model import RefragModel
from refrag_rag.training.batches import Row, arrange, gold, passages_of
from refrag_rag.training.chunk_sizes import ChunkSizes
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.layout import Frame, QuestionLayout, draw_masks
from refrag_rag.training.prompts import CONTINUE, REPEAT
from refrag_rag.training.protocols import Lengths


class DocumentRows(ABC):
    """Rows of one length a step, as a curriculum draws it; the model's chunker cuts them.

    Parameters
    ----------
    sizes
        Of chunks; the model's k by default.
    asked
        Whether an instruction says what is to be done with the text, in the chat template if there
        is one. It must, where rows of several kinds come together.
    """

    def __init__(
        self,
        documents: Documents,
        model: RefragModel,
        lengths: Lengths,
        *,
        batch_size: int = 1,
        sizes: ChunkSizes | None = None,
        asked: bool = False,
    ) -> None:
        self.documents, self.lengths, self.batch_size = documents, lengths, batch_size
        self.frame, self.k = Frame(model), model.config.k
        self.sizes = sizes or ChunkSizes((self.k,))
        self.layout = QuestionLayout(model, max_passages=1) if asked else None
        self.alone = asked and model.config.chunking == "passage"  # one passage, hence one chunk
        self.record, self.summary = lengths.record, lengths.summary
        self.state, self.restore = lengths.state, lengths.restore

    def draw(self, rng: Random, share: float) -> list[Row]:
        """Rows of one length in chunks."""
        chunks = self.lengths.draw(rng, share)
        return [self._draw(rng, chunks, share) for _ in range(self.batch_size)]

    def row(self, rng: Random, share: float) -> Row:
        """One row, of a length of its own."""
        return self._draw(rng, self.lengths.draw(rng, share), share)

    def rows(self, rng: Random, chunks: int, count: int) -> list[Row]:
        """`count` rows of `chunks` chunks of the model's k, all of them vectors."""
        return [self._row(rng, chunks * self.k, self.k, None) for _ in range(count)]

    def _draw(self, rng: Random, chunks: int, share: float) -> Row:
        k = self.sizes.draw(rng, share)
        return self._row(rng, (1 if self.alone else chunks) * k, k, share)

    @abstractmethod
    def _row(self, rng: Random, tokens: int, k: int, share: float | None) -> Row:
        """A row of so many tokens of context; without a share of the run, all as vectors."""


class DocumentChunks(DocumentRows):
    """Reconstruction: a run of text as vectors, followed by its tokens."""

    def _row(self, rng: Random, tokens: int, k: int, share: float | None) -> Row:  # noqa: ARG002
        ids = self.documents.run(rng, tokens)
        if self.layout is None:
            passages = self.frame.passages(ids, k=k)
            said = [gold(passage.ids) for passage in passages]
            pieces = [self.frame.first, *passages, *said, self.frame.end]
        else:
            text = self.frame.text(ids)
            pieces = self.layout.task(rng.choice(REPEAT), text, text, k=k)
        return arrange(pieces, [[False] * len(one) for one in passages_of(pieces)])


class DocumentContinuation(DocumentRows):
    """Next-paragraph prediction: context as vectors and some text, then the tokens that follow.

    Parameters
    ----------
    following
        Most tokens to predict; never more than the context has.
    text_shares
        Shares of chunks that stay text: one phase of the run each, of equal length
        (REFRAG, section 2.2: first none, then 0.1).
    **options
        As for `DocumentRows`.
    """

    def __init__(
        self,
        documents: Documents,
        model: RefragModel,
        lengths: Lengths,
        *,
        following: int,
        text_shares: tuple[float, ...],
        **options: Any,
    ) -> None:
        super().__init__(documents, model, lengths, **options)
        self.following, self.text_shares = following, text_shares

    def _row(self, rng: Random, tokens: int, k: int, share: float | None) -> Row:
        context, following = self.documents.continuation(rng, tokens, min(tokens, self.following))
        if self.layout is None:
            said = gold(following.tolist())
            pieces = [self.frame.first, *self.frame.passages(context, k=k), said]
        else:
            texts = self.frame.text(context), self.frame.text(following)
            pieces = self.layout.task(rng.choice(CONTINUE), *texts, k=k)
        return arrange(pieces, draw_masks(pieces, rng, self._text_share(share)))

    def _text_share(self, share: float | None) -> float:
        if share is None:
            return 0.0
        return self.text_shares[min(len(self.text_shares) - 1, int(share * len(self.text_shares)))]
