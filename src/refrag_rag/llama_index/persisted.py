"""Passages of a persisted LlamaIndex index, read as data."""

from collections.abc import Iterator
from pathlib import Path

from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.docstore.types import DEFAULT_PERSIST_FNAME

from refrag_rag.errors import InputError
from refrag_rag.llama_index.nodes import MetadataPlace, passage_text


def persisted_texts(path: str | Path, metadata: MetadataPlace = "compressed") -> Iterator[str]:
    """Passages of the nodes in a storage folder or its ``docstore.json``, as they stand in spans.

    Raises
    ------
    InputError
        If it is no document store, or has no nodes: vector databases that keep the nodes
        themselves leave it empty.
    """
    place = Path(path)
    place = place / DEFAULT_PERSIST_FNAME if place.is_dir() else place
    try:
        nodes = SimpleDocumentStore.from_persist_path(str(place)).docs.values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{place} is no document store of LlamaIndex ({error!r}); expected what "
            "StorageContext.persist writes."
        ) from error
    if not nodes:
        raise InputError(
            f"{place} has no nodes; expected all that are indexed. If a vector database keeps "
            "them, write their passages into a JSON-lines file instead."
        )
    yield from filter(None, (passage_text(node, metadata) for node in nodes))
