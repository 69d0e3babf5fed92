"""Rows from users' own text: reconstruction and continuation at the curriculum's lengths."""

from random import Random
from typing import Any

from refrag_rag.model import RefragModel
from refrag_rag.training.batches import Piece, Row, arrange, gold, passages_of
from refrag_rag.training.data.documents import Documents
from refrag_rag.training.lengths import LengthCurriculum
from refrag_rag.training.protocols import Lengths


class Frame:
    """What stands around a training example: the decoder's first token, and its last.

    Passages are cut by the model's own chunker, exactly as at question time.
    """

    def __init__(self, model: RefragModel) -> None:
        self._tokenizer, self._chunker = model.tokenizer, model.chunker
        first = model.tokenizer("", add_special_tokens=True).input_ids
        end = model.tokenizer.eos_token_id
        self.first = Piece([i for i in first if i != end])
        self.end = gold([end])

    def passage(self, ids: Any) -> Piece:
        """Token ids as a passage; a character cut in half at either end is left out."""
        text = self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return self.text_passage(text.strip("\ufffd"))

    def text_passage(self, text: str) -> Piece:
        """Text as a passage."""
        chunked = self._chunker.chunk(text)
        return Piece(chunked.token_ids, chunked=chunked)


class DocumentRows:
    """Rows of one length a step, as a curriculum draws it; the model's chunker cuts them."""

    def __init__(
        self, documents: Documents, model: RefragModel, lengths: Lengths, *, batch_size: int
    ) -> None:
        self.documents, self.lengths, self.batch_size = documents, lengths, batch_size
        self.k, self.frame = model.config.k, Frame(model)
        self.record, self.summary = lengths.record, lengths.summary
        self.state, self.restore = lengths.state, lengths.restore
        if type(lengths) is LengthCurriculum:  # not one that follows the run's figures
            self.follow = lengths.draw


class DocumentChunks(DocumentRows):
    """Reconstruction: a run of text as vectors, followed by its tokens."""

    def draw(self, rng: Random, share: float) -> list[Row]:
        """Runs of one length."""
        return self.rows(rng, self.lengths.draw(rng, share), self.batch_size)

    def rows(self, rng: Random, chunks: int, count: int) -> list[Row]:
        """`count` runs of `chunks` chunks."""
        return [self._row(rng, chunks) for _ in range(count)]

    def _row(self, rng: Random, chunks: int) -> Row:
        passage = self.frame.passage(self.documents.run(rng, chunks * self.k))
        pieces = [self.frame.first, passage, gold(passage.ids), self.frame.end]
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
    """

    def __init__(
        self,
        documents: Documents,
        model: RefragModel,
        lengths: Lengths,
        *,
        batch_size: int,
        following: int,
        text_shares: tuple[float, ...],
    ) -> None:
        super().__init__(documents, model, lengths, batch_size=batch_size)
        self.following, self.text_shares = following, text_shares

    def draw(self, rng: Random, share: float) -> list[Row]:
        """Contexts of one length."""
        phase = min(len(self.text_shares) - 1, int(share * len(self.text_shares)))
        chunks = self.lengths.draw(rng, share)
        return self.rows(rng, chunks, self.batch_size, text_share=self.text_shares[phase])

    def rows(self, rng: Random, chunks: int, count: int, *, text_share: float = 0.0) -> list[Row]:
        """`count` contexts of `chunks` chunks with what follows."""
        return [self._row(rng, chunks, text_share) for _ in range(count)]

    def _row(self, rng: Random, chunks: int, text_share: float) -> Row:
        tokens = chunks * self.k
        context, following = self.documents.continuation(rng, tokens, min(tokens, self.following))
        pieces = [self.frame.first, self.frame.passage(context), gold(following.tolist())]
        return arrange(pieces, draw_masks(pieces, rng, text_share))


def draw_masks(pieces: list[Piece], rng: Random, share: float) -> list[list[bool]]:
    """For each passage, for each chunk, whether it stays text: with a probability of `share`."""
    return [[rng.random() < share for _ in range(len(one))] for one in passages_of(pieces)]
