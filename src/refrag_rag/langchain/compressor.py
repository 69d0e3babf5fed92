"""RefragCompressor: marks retrieved documents as compressible, or shortens them."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field
from typing_extensions import override

from refrag_rag.adapters.passages import PassageStep
from refrag_rag.engine import Refrag
from refrag_rag.langchain.documents import AnyDocument, as_document, span_texts, with_text
from refrag_rag.spans import wrap


class RefragCompressor(PassageStep, BaseDocumentCompressor):
    """Marks retrieved documents as compressible, or shortens them; put it last, before the model.

    Returns new documents in the same order with the same ids and metadata, and with their text
    between markers (`strip_documents` undoes it). Documents without text stay as they are.

    With ``output="text"`` a model that takes only text reads each document shortened to the chunks
    that the policy would expand, see `refrag_rag.engine.extract`; that cannot be undone.

    Parameters
    ----------
    engine
        With it, documents that the store does not have are encoded here, in one batch, and kept.
        ``output="text"`` needs it.
    p, policy
        For ``text``: the largest fraction of the chunks to keep, of all documents together, and
        who chooses them. None: the engine's.
    unchosen
        For ``text``: whether a document with nothing chosen stays (its text is then ``…``).
    """

    title_key: str | None = Field(
        default=None, description="Metadata key of a title to put in front of the text."
    )
    score_key: str = Field(
        default="relevance_score", description="Metadata key of the retrieval score."
    )
    scores: bool = Field(
        default=True,
        description="Whether the score goes along in the marker. LangChain merges documents by "
        "their text: where marked retrievers feed an EnsembleRetriever, turn it off, or give that "
        "retriever an id_key.",
    )

    def __init__(self, engine: Refrag | None = None, **settings: Any) -> None:
        super().__init__(engine, **settings)

    @override
    def compress_documents(
        self,
        documents: Sequence[AnyDocument],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """Mark or shorten documents; `acompress_documents` does the same in a thread."""
        texts = span_texts(documents, self.title_key)
        plain = [as_document(document) for document in documents]
        scores = [self._score(document) for document in plain]
        if self.output == "text":
            if all(score is None for score in scores):  # a retriever's order is its ranking
                scores = [-float(place) for place in range(len(plain))]
            return [
                with_text(document, one.text or document.page_content)
                for document, one in zip(plain, self._shorten(texts, query, scores), strict=True)
                if self._stays(one)
            ]
        self._prepare_to_mark(texts)
        return [
            with_text(document, wrap(text, score=score) or document.page_content)
            for document, text, score in zip(plain, texts, scores, strict=True)
        ]

    def _score(self, document: Document) -> float | None:
        """The score by metadata; a document's text may claim one, which is not believed.

        Scores may be any real number (numpy's too), but not a bool, an infinity or NaN.
        """
        value = document.metadata.get(self.score_key) if self.scores else None
        if isinstance(value, bool) or not isinstance(value, Real):
            return None
        try:
            score = float(value)
        except OverflowError:  # a very long integer, from metadata that nobody checked
            return None
        return score if math.isfinite(score) else None
