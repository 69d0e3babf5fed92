"""Documents: precomputed when they are indexed, marked when they were retrieved."""

import logging
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, BaseDocumentTransformer, Document
from pydantic import ConfigDict, Field, PrivateAttr
from typing_extensions import override

from refrag_rag.adapters import NOT_KEPT, EngineOwner, check_engine, no_other_process
from refrag_rag.engine.extract import EXTRACTION, Output, Unchosen, check_extraction, extract
from refrag_rag.errors import InputError, StoreError
from refrag_rag.spans import MARKED, Span, find_spans, neutralise, strip_spans, wrap

if TYPE_CHECKING:
    from refrag_rag.engine import Refrag
    from refrag_rag.generation.answer import PrecomputeReport

logger = logging.getLogger(__name__)
# A checkpointer gives documents of a tool message back as dicts.
AnyDocument = Document | Mapping[str, Any]


def span_text(document: AnyDocument, *, title_key: str | None = None) -> str:
    """Text that stands inside the span of a document: what is hashed, encoded and looked up.

    Parameters
    ----------
    document
        Marked or not; a document that is one span already gets no second title.
    title_key
        Metadata key of a title to put in front ("title: ...", then a blank line).

    Returns
    -------
    str
        Empty if the document has no text.

    Raises
    ------
    InputError
        If it is not a document.
    """
    document = _as_document(document)
    marked = _whole_span(document.page_content)
    if marked is not None:
        return neutralise(marked.text)
    if not document.page_content.strip():
        return ""
    return neutralise(_title(document, title_key) + document.page_content)


def precompute_documents(
    engine: "Refrag",
    documents: Sequence[AnyDocument],
    *,
    title_key: str | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> "PrecomputeReport":
    """Encode the documents that the engine's store does not have, in batches.

    Run it on the documents that go into the vector store, after splitting; again costs little.

    Parameters
    ----------
    title_key
        The same as in `RefragCompressor`.

    Raises
    ------
    InputError
        If something is not a document.
    """
    texts = [span_text(document, title_key=title_key) for document in documents]
    return engine.precompute(
        [text for text in texts if text], batch_size=batch_size, progress=progress
    )


def forget_documents(
    engine: "Refrag",
    documents: Sequence[AnyDocument],
    *,
    living: Sequence[AnyDocument] = (),
    title_key: str | None = None,
) -> int:
    """Remove the passages of deleted documents from the engine's store; see `Refrag.forget`.

    Parameters
    ----------
    documents
        As they were indexed.
    living
        Documents that stay; passages that they share with deleted ones are kept.
    title_key
        The same as in `RefragIndexer`.

    Returns
    -------
    int
        How many entries were removed.

    Raises
    ------
    InputError
        If something is not a document.
    """
    gone, stay = (
        [span_text(document, title_key=title_key) for document in some]
        for some in (documents, living)
    )
    return engine.forget([text for text in gone if text], living=stay)


def strip_documents(
    documents: Sequence[AnyDocument], *, title_key: str | None = None
) -> list[Document]:
    """Undo what `RefragCompressor` did: new documents without markers (and title).

    Parameters
    ----------
    title_key
        The same as in `RefragCompressor`; the title goes if the marked text begins with it.

    Raises
    ------
    InputError
        If something is not a document.
    """
    stripped = []
    for document in map(_as_document, documents):
        text = strip_spans(document.page_content)
        if _whole_span(document.page_content) is not None:
            text = text.removeprefix(neutralise(_title(document, title_key)))
        stripped.append(_with_text(document, text))
    return stripped


class RefragIndexer(EngineOwner, BaseDocumentTransformer):
    """Index-time step: precomputes documents and hands them on unchanged.

    Parameters
    ----------
    engine
        Built engine; or give `model_name` and `store`, and it is built on first use.
    **settings
        The fields below.
    """

    title_key: str | None = Field(default=None, description="The same as in RefragCompressor.")
    batch_size: int = Field(default=64, gt=0, description="Encoder windows at once.")
    progress: bool = Field(default=False, description="Show a bar.")

    def __init__(self, engine: "Refrag | None" = None, **settings: Any) -> None:
        super().__init__(engine, **settings)

    @override
    def transform_documents(
        self, documents: Sequence[Document], **kwargs: Any
    ) -> Sequence[Document]:
        """Precompute what the store does not have.

        A store that cannot be written stops nothing: that is logged as an error, and the documents
        are encoded when they are first asked for.

        Returns
        -------
        Sequence[Document]
            The documents, as they came.
        """
        settings = {"batch_size": self.batch_size, "progress": self.progress, **kwargs}
        engine = self.engine  # a store that cannot be opened is an error
        try:
            precompute_documents(engine, documents, title_key=self.title_key, **settings)
        except StoreError as error:
            logger.error(NOT_KEPT, error)
        return documents

    def forget(self, documents: Sequence[Document], *, living: Sequence[Document] = ()) -> int:
        """Remove the passages of deleted documents; see `forget_documents`.

        Call it where documents are deleted from the vector store, which tells nobody.
        """
        return forget_documents(self.engine, documents, living=living, title_key=self.title_key)


class RefragCompressor(BaseDocumentCompressor):
    """Marks retrieved documents as compressible, or shortens them; put it last, before the model.

    Returns new documents in the same order with the same ids and metadata, and with their text
    between markers (`strip_documents` undoes it). Documents without text stay as they are.

    With ``output="text"`` a model that takes only text reads each document shortened to the chunks
    that the policy would expand, see `refrag_rag.engine.extract`; that cannot be undone.

    Parameters
    ----------
    engine
        With it, documents that the store does not have are encoded here, in one batch, and not
        one by one as the model meets them. Only ``text`` needs it.
    output
        ``spans`` for `ChatRefrag`, ``text`` for other models.
    p, policy
        For ``text``: the largest fraction of the chunks to keep, of all documents together, and
        who chooses them. None: the engine's.
    unchosen
        For ``text``: whether a document of which nothing was chosen stays (its text is then
        ``…``).

    Raises
    ------
    InputError
        If the settings cannot be used.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    engine: Any = Field(default=None, exclude=True, repr=False)
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
    output: Output = Field(default="spans", description="Spans, or the chosen chunks as text.")
    p: float | None = Field(default=None, description="Text: fraction of chunks to keep.")
    policy: Any = Field(default=None, description="Text: name or policy that chooses the chunks.")
    unchosen: Unchosen = Field(default="keep", description="Text: documents with nothing chosen.")
    _noted: bool = PrivateAttr(default=False)

    def __init__(self, engine: "Refrag | None" = None, **data: Any) -> None:
        if engine is not None:
            check_engine(engine)
        check_extraction(engine, **{name: data[name] for name in EXTRACTION if name in data})
        super().__init__(**{"engine": engine, **data})

    def __getstate__(self) -> dict[Any, Any]:
        """State for another process.

        Raises
        ------
        InputError
            If there is an engine, which cannot go there.
        """
        if self.engine is not None:
            raise no_other_process()
        return super().__getstate__()

    @override
    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """Mark or shorten documents; `acompress_documents` does the same in a thread.

        Raises
        ------
        InputError
            If something is not a document.
        """
        if self.output == "text":
            return self._shortened([_as_document(document) for document in documents], query)
        if not self._noted:
            self._noted = True
            logger.info(MARKED)
        if self.engine is not None and documents:
            try:
                precompute_documents(self.engine, documents, title_key=self.title_key)
            except StoreError as error:  # they are encoded with the answer
                logger.error(NOT_KEPT, error)
        return [self._wrap(_as_document(document)) for document in documents]

    def _wrap(self, document: Document) -> Document:
        text = span_text(document, title_key=self.title_key)
        if not text:
            return _with_text(document, document.page_content)
        return _with_text(document, wrap(text, score=self._retrieval_score(document)))

    def _shortened(self, documents: Sequence[Document], query: str) -> list[Document]:
        extracts = extract(
            self.engine,
            [span_text(document, title_key=self.title_key) for document in documents],
            query,
            p=self.p,
            policy=self.policy,
            scores=[self._retrieval_score(document) for document in documents],
        )
        return [
            _with_text(document, one.text or document.page_content)
            for document, one in zip(documents, extracts, strict=True)
            if one.kept or not one.chunks or self.unchosen == "keep"
        ]

    def _retrieval_score(self, document: Document) -> float | None:
        """The score by metadata; a document's text may claim one, which is not believed."""
        return _score(document.metadata.get(self.score_key)) if self.scores else None


def is_document(value: object) -> bool:
    """Whether this is a document, or a dict that was one."""
    if isinstance(value, Mapping):
        return isinstance(value.get("page_content"), str)
    return isinstance(value, Document)


def _as_document(document: AnyDocument) -> Document:
    if isinstance(document, Document):
        return document
    if isinstance(document, Mapping) and is_document(document):
        return Document(
            id=document.get("id"),
            page_content=document["page_content"],
            metadata=dict(document.get("metadata") or {}),
        )
    raise InputError(
        f"a {type(document).__name__} came as a document; expected a Document, or a dict with "
        "page_content. Pass the retriever's documents on as they are."
    )


def _with_text(document: Document, text: str) -> Document:
    return document.model_copy(update={"page_content": text, "metadata": dict(document.metadata)})


def _whole_span(text: str) -> Span | None:
    """Return the span that the whole text is, if it is one."""
    spans = find_spans(text)
    if len(spans) == 1 and (spans[0].start, spans[0].end) == (0, len(text)):
        return spans[0]
    return None


def _title(document: Document, title_key: str | None) -> str:
    title = None if title_key is None else document.metadata.get(title_key)
    return "" if title is None or not str(title).strip() else f"title: {title}\n\n"


def _score(value: object) -> float | None:
    """Scores may be any real number (numpy's too), but not a bool, an infinity or NaN."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        score = float(value)
    except OverflowError:  # a very long integer, from metadata that nobody checked
        return None
    return score if math.isfinite(score) else None
