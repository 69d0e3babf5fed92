"""A folder of documents, indexed with LlamaIndex, FAISS and a sentence-transformers model."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import faiss
from llama_index.core import (
    SimpleDirectoryReader,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TransformComponent
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.faiss import FaissVectorStore

from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.evaluation.retrieval import embedding_model_folder
from refrag_rag.llama_index import RefragTransform

PASSAGE_TOKENS = 160  # of the retriever's tokenizer; tiny is at home with short passages
INDEX, CHUNKS = "index", "chunks"


def embedding_model() -> BaseEmbedding:
    """The retriever's embedding model, all-MiniLM-L6-v2."""
    return HuggingFaceEmbedding(model_name=str(embedding_model_folder()), device="cpu")


def build_index(
    folder: Path, engine: Refrag, *, precompute: Callable[[Sequence[str]], object] | None = None
) -> VectorStoreIndex:
    """Read, split, precompute chunk embeddings, embed and index all documents of a folder.

    Parameters
    ----------
    precompute
        Encodes all passages into the engine's store, in another way than `Refrag.precompute`.

    Raises
    ------
    InputError
        If the folder has no readable document.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected one with documents.")
    with _quiet():
        try:
            documents = SimpleDirectoryReader(str(folder), recursive=True).load_data()
        except ValueError as error:
            raise InputError(f"{folder}: {error} Expected txt, md or other documents.") from error
    for document in documents:  # only the text is worth positions
        document.excluded_llm_metadata_keys = list(document.metadata)
        document.excluded_embed_metadata_keys = list(document.metadata)
    splitter = SentenceSplitter(chunk_size=PASSAGE_TOKENS, chunk_overlap=0)
    nodes = splitter.get_nodes_from_documents(documents)
    # All at once is sorted by length; the transformation below then finds everything there.
    (precompute or engine.precompute)([node.get_content() for node in nodes])
    steps: list[TransformComponent] = [splitter, RefragTransform(engine)]
    embedder = embedding_model()
    width = len(embedder.get_text_embedding("width"))
    storage = StorageContext.from_defaults(
        vector_store=FaissVectorStore(faiss_index=faiss.IndexFlatIP(width))
    )
    return VectorStoreIndex.from_documents(
        documents,
        transformations=steps,
        storage_context=storage,
        embed_model=embedder,
        show_progress=len(documents) > 100,
    )


def save_index(index: VectorStoreIndex, home: Path) -> None:
    """Write an index beside the chunk embeddings in `home`."""
    index.storage_context.persist(str(home / INDEX))


def open_index(home: Path) -> VectorStoreIndex:
    """Open what `save_index` wrote.

    Raises
    ------
    InputError
        If there is nothing.
    """
    folder = home / INDEX
    if not folder.is_dir():
        raise InputError(f"{home} holds no index; expected one. Run `refrag index FOLDER` first.")
    store = FaissVectorStore.from_persist_dir(str(folder))
    storage = StorageContext.from_defaults(vector_store=store, persist_dir=str(folder))
    index = load_index_from_storage(storage, embed_model=embedding_model())
    if not isinstance(index, VectorStoreIndex):
        raise InputError(f"{folder} holds a {type(index).__name__}; expected a VectorStoreIndex.")
    return index


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the reader's notes about optional packages off the screen."""
    logger = logging.getLogger("llama_index.core.readers.file.base")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
