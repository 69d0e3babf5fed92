"""Documents: what of them stands in spans, precomputed when they are indexed."""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import BaseDocumentTransformer, Document
from pydantic import Field
from typing_extensions import override

from refrag_rag.adapters.engine import EngineOwner
from refrag_rag.adapters.passages import keep
from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.generation.answer import PrecomputeReport
from refrag_rag.spans import Span, find_spans, neutralise, strip_spans

# A checkpointer gives documents of a tool message back as dicts.
AnyDocument = Document | Mapping[str, Any]


class RefragIndexer(EngineOwner, BaseDocumentTransformer):
    """Index-time step: precomputes documents and hands them on unchanged.

    Give it an engine, or `model_name` and `store` of one that is loaded on first use.
    """

    title_key: str | None = Field(default=None, description="The same as in RefragCompressor.")
    batch_size: int = Field(default=64, gt=0, description="Encoder windows at once.")
    progress: bool = Field(default=False, description="Show a bar.")

    def __init__(self, engine: Refrag | None = None, **settings: Any) -> None:
        super().__init__(engine, **settings)

    @override
    def transform_documents(
        self, documents: Sequence[Document], **kwargs: Any
    ) -> Sequence[Document]:
        """Precompute what the store does not have; return the documents as they came.

        A store that cannot be written stops nothing: that is logged as an error, and the documents
        are encoded when they are first asked for.
        """
        settings = {"batch_size": self.batch_size, "progress": self.progress, **kwargs}
        keep(self.engine, span_texts(documents, self.title_key), **settings)
        return documents

    def forget(self, documents: Sequence[Document], *, living: Sequence[Document] = ()) -> int:
        """Remove the passages of deleted documents from the store; return how many entries went.

        Call it where documents are deleted from the vector store, which tells nobody. Give the
        documents as they were indexed; passages that they share with `living` ones stay.
        """
        gone, stay = (span_texts(some, self.title_key) for some in (documents, living))
        return self.engine.forget([text for text in gone if text], living=stay)


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
    document = as_document(document)
    marked = _whole_span(document.page_content)
    if marked is not None:
        return neutralise(marked.text)
    text = document.page_content
    return neutralise(_title(document, title_key) + text) if text.strip() else ""


def span_texts(documents: Sequence[AnyDocument], title_key: str | None) -> list[str]:
    """The text in the span of each document."""
    return [span_text(document, title_key=title_key) for document in documents]


def precompute_documents(
    engine: Refrag,
    documents: Sequence[AnyDocument],
    *,
    title_key: str | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> PrecomputeReport:
    """Encode the documents that the engine's store does not have, in batches.

    Run it on the documents that go into the vector store, after splitting; again costs little.
    `title_key` is the same as in `RefragCompressor`; errors are those of `span_text`.
    """
    texts = [text for text in span_texts(documents, title_key) if text]
    return engine.precompute(texts, batch_size=batch_size, progress=progress)


def strip_documents(
    documents: Sequence[AnyDocument], *, title_key: str | None = None
) -> list[Document]:
    """Undo what `RefragCompressor` did: new documents without markers (and title).

    `title_key` is the same as there; the title goes if the marked text begins with it. Errors are
    those of `span_text`.
    """
    stripped = []
    for document in map(as_document, documents):
        text = strip_spans(document.page_content)
        if _whole_span(document.page_content) is not None:
            text = text.removeprefix(neutralise(_title(document, title_key)))
        stripped.append(with_text(document, text))
    return stripped


def is_document(value: object) -> bool:
    """Whether this is a document, or a dict that was one."""
    if isinstance(value, Mapping):
        return isinstance(value.get("page_content"), str)
    return isinstance(value, Document)


def as_document(document: AnyDocument) -> Document:
    """The document itself, or the one that a dict was; anything else is an `InputError`."""
    if isinstance(document, Document):
        return document
    if is_document(document):
        return Document(
            id=document.get("id"),
            page_content=document["page_content"],
            metadata=dict(document.get("metadata") or {}),
        )
    raise InputError(
        f"a {type(document).__name__} came as a document; expected a Document, or a dict with "
        "page_content. Pass the retriever's documents on as they are."
    )


def with_text(document: Document, text: str) -> Document:
    """A copy of a document with another text."""
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
