"""A folder of documents, indexed with LlamaIndex, FAISS and a sentence-transformers model.

Indexing again reads and cuts only documents that changed, and embeds only passages that are new.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document, MetadataMode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.vector_stores.faiss import FaissVectorStore
from tqdm import tqdm

from refrag_rag.demo.files import read_folder
from refrag_rag.demo.home import FORMAT, Home, Record
from refrag_rag.demo.quiet import quiet
from refrag_rag.engine import Refrag
from refrag_rag.errors import InputError
from refrag_rag.evaluation.retrieval import embedding_model_folder

PASSAGE_TOKENS = 160  # of LlamaIndex's tokenizer; a passage has to fit the retriever's 256
SLICE = 16  # passages between two steps of a bar
Precompute = Callable[[Refrag, Sequence[str]], object]
"""Encodes passages into an engine's store."""


@dataclass(frozen=True)
class Changes:
    """Passages that came, stayed and went; and the files that have no text or cannot be read."""

    new: int
    kept: int
    removed: int
    skipped: Sequence[str] = ()


def embedding_model() -> BaseEmbedding:
    """The retriever's embedding model, all-MiniLM-L6-v2."""
    with quiet():
        return HuggingFaceEmbedding(model_name=str(embedding_model_folder()), device="cpu")


def update_index(
    folder: Path,
    home: Home,
    load: Callable[[], Refrag],
    *,
    record: Record,
    precompute: Precompute | None = None,
) -> Changes:
    """Bring the index in a home, and its store, to what a folder holds now, with bars.

    Parameters
    ----------
    load
        Loads the engine, whose store is the home's, once there is something to index.
    record
        What to write down of the index.
    precompute
        See `index_documents`.

    Raises
    ------
    InputError
        If the folder has no readable document, the home holds an index of another one, or another
        process writes there.
    StoreError
        If something cannot be written; the older index is then as it was.
    """
    with home.locked():
        home.check_folder(folder)
        files = read_folder(folder, without=home.path, progress=True)
        engine = load()
        before = _index_before(home)
        index = index_documents(
            files.documents,
            engine,
            before=before,
            precompute=precompute,
            progress=True,
        )
        with home.replacing(record) as place:
            index.storage_context.persist(str(place))
        old, new = Counter(_texts(before)), Counter(_texts(index))
        gone = old - new
        engine.forget(gone, living=new)
        engine.store.close()
    kept = (old & new).total()
    return Changes(new.total() - kept, kept, gone.total(), files.skipped)


def index_documents(
    documents: Sequence[Document],
    engine: Refrag,
    *,
    before: VectorStoreIndex | None = None,
    precompute: Precompute | None = None,
    passage_tokens: int = PASSAGE_TOKENS,
    progress: bool = False,
) -> VectorStoreIndex:
    """Split documents, precompute chunk embeddings, embed and index.

    Parameters
    ----------
    before
        An older index: its passages of unchanged documents, and all its vectors, are used again.
    precompute
        Another way to encode than in this process alone.
    passage_tokens
        Longest passage, in tokens of LlamaIndex's tokenizer.
    progress
        Show bars.
    """
    splitter = SentenceSplitter(chunk_size=passage_tokens, chunk_overlap=0)
    nodes = _split(documents, splitter, before, progress)
    texts = [node.get_content(MetadataMode.LLM) for node in nodes]
    if precompute is None:
        _precompute(engine, texts, progress)
    else:
        precompute(engine, texts)
    embedder = embedding_model()
    vectors = _embed(texts, embedder, {} if before is None else _vectors(before), progress)
    for node, text in zip(nodes, texts, strict=True):
        node.embedding = vectors[text]
    width = len(next(iter(vectors.values())))
    storage = StorageContext.from_defaults(
        vector_store=FaissVectorStore(faiss_index=faiss.IndexFlatIP(width))
    )
    index = VectorStoreIndex(nodes=nodes, storage_context=storage, embed_model=embedder)
    for document in documents:
        index.docstore.set_document_hash(document.id_, document.hash)
    return index


def open_index(home: Home) -> VectorStoreIndex:
    """Open the index of a home.

    Raises
    ------
    InputError
        If there is nothing, or it is damaged.
    """
    record = home.existing()
    folder = home.path / record.index
    try:
        store = FaissVectorStore.from_persist_dir(str(folder))
        storage = StorageContext.from_defaults(vector_store=store, persist_dir=str(folder))
        index = load_index_from_storage(storage, embed_model=embedding_model())
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The index in {folder} cannot be read ({type(error).__name__}: {error}); expected "
            f"what `refrag index` writes. Run `refrag index {record.folder}` again."
        ) from error
    if not isinstance(index, VectorStoreIndex):
        raise InputError(f"{folder} holds a {type(index).__name__}; expected a VectorStoreIndex.")
    return index


def _index_before(home: Home) -> VectorStoreIndex | None:
    """The home's index; None where there is none that can be used again."""
    record = home.record()
    if record is None or record.format != FORMAT:
        return None
    try:
        return open_index(home)
    except InputError:  # damaged: everything is made anew
        return None


def _split(
    documents: Sequence[Document],
    splitter: SentenceSplitter,
    before: VectorStoreIndex | None,
    progress: bool,
) -> list[BaseNode]:
    """Passages of documents in their order; those of unchanged documents as they were."""
    known: dict[str, list[BaseNode]] = {}
    for node in [] if before is None else _nodes(before):
        known.setdefault(node.ref_doc_id or "", []).append(node)
    nodes: list[BaseNode] = []
    for document in tqdm(documents, desc="splitting", unit="document", disable=not progress):
        old = before and before.docstore.get_document_hash(document.id_)
        if old == document.hash:
            nodes += known.get(document.id_, [])
        else:
            nodes += splitter.get_nodes_from_documents([document])
    return nodes


def _precompute(engine: Refrag, texts: Sequence[str], progress: bool) -> None:
    """Encode in slices, longest first: an engine tells of its steps only every 256 passages."""
    ordered = sorted(set(texts), key=len, reverse=True)
    with tqdm(total=len(ordered), desc="encoding", unit="passage", disable=not progress) as bar:
        for start in range(0, len(ordered), SLICE):
            bar.update(engine.precompute(ordered[start : start + SLICE]).passages)


def _embed(
    texts: Sequence[str],
    embedder: BaseEmbedding,
    known: Mapping[str, list[float]],
    progress: bool,
) -> dict[str, list[float]]:
    """The retriever's vector of each text."""
    vectors = {text: known[text] for text in texts if text in known}
    missing = sorted(set(texts) - vectors.keys(), key=len, reverse=True)
    bar = tqdm(total=len(vectors) + len(missing), desc="embedding", unit="passage",
               initial=len(vectors), disable=not progress)  # fmt: skip
    with bar:
        for start in range(0, len(missing), SLICE):
            batch = missing[start : start + SLICE]
            found = embedder.get_text_embedding_batch(batch)
            vectors.update(zip(batch, found, strict=True))
            bar.update(len(batch))
    return vectors


def _vectors(index: VectorStoreIndex) -> dict[str, list[float]]:
    """The retriever's vector of each passage of an index."""
    matrix = index.vector_store.client.reconstruct_n(0, index.vector_store.client.ntotal)
    places = index.index_struct.nodes_dict
    texts = {node.node_id: node.get_content(MetadataMode.LLM) for node in _nodes(index)}
    return {texts[name]: matrix[int(place)].tolist() for place, name in places.items()}


def _nodes(index: VectorStoreIndex) -> list[BaseNode]:
    return list(index.storage_context.docstore.docs.values())


def _texts(index: VectorStoreIndex | None) -> list[str]:
    return [] if index is None else [n.get_content(MetadataMode.LLM) for n in _nodes(index)]
