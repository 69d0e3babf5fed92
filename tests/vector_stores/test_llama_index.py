"""LlamaIndex with vector databases: precomputed while indexing, then updated and deleted."""

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter

from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform
from refrag_rag.store import LMDBStore
from refrag_rag.store.sources import passage_keys
from refrag_rag.store.upkeep import verify
from tests.llama_index.chains import HashedWords, documents
from tests.recorded import RecordedEngine, check_vectors
from tests.sample_texts import QUESTION
from tests.vector_stores import databases

CHANGED = "The captain of the Titanic was Anna Keld. The Titanic was found in 1985."


def database(name, make, note, *marks):
    row = pytest.mark.mode("LlamaIndex", f"vector database `{name}`", "works", note)
    return pytest.param(make, marks=[row, *marks], id=name)


DATABASES = [
    database("FAISS", databases.llama_faiss, "rebuilt after a change: it cannot delete"),
    database("Chroma", databases.llama_chroma, "update and delete", pytest.mark.slow),
    database("Qdrant", databases.llama_qdrant, "local mode, update and delete", pytest.mark.slow),
    database(
        "LanceDB", databases.llama_lancedb, "deleting through its own table", pytest.mark.slow
    ),
    database(
        "pgvector", databases.llama_pgvector, "PostgreSQL, update and delete", pytest.mark.slow
    ),
]


def split(found):
    return SentenceSplitter(tokenizer=str.split, chunk_size=256)(found)


def on_disk(path, entry):
    """Whether anything of an entry's chunk embeddings stands in the store's file."""
    data = (path / "data.mdb").read_bytes()
    return any(row.tobytes() in data for row in entry.embeddings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", DATABASES)
def test_indexing_asking_updating_and_deleting(tiny_model, tmp_path, make):
    with make(tmp_path / "database") as (vectors, delete), LMDBStore(tmp_path / "store") as store:
        engine = RecordedEngine(tiny_model, store=store, p=0.2)
        transform = RefragTransform(engine)
        nodes = transform(split(documents()))
        index = VectorStoreIndex(
            nodes,
            storage_context=StorageContext.from_defaults(vector_store=vectors),
            embed_model=HashedWords(),
        )

        def ask():
            engine.calls.clear()
            asker = index.as_query_engine(
                llm=RefragLLM(engine, max_new_tokens=8),
                node_postprocessors=[RefragPostprocessor()],
                similarity_top_k=3,
            )
            answer = asker.query(QUESTION)
            passages = sorted(node.text for node in nodes)
            check_vectors(engine, passages, spans=[len(passages)])
            assert sorted(one.node.text for one in answer.source_nodes) == passages
            return str(answer)

        assert "Smith" in ask()
        titanic, nintendo, danube = nodes
        (entry,) = store.get(engine.namespace, list(passage_keys([titanic.text])))

        nodes = [nintendo, danube]
        index = delete(index, nodes)
        assert transform.forget([titanic], living=nodes) == 1
        new = transform(split([Document(text=CHANGED, id_="Titanic")]))
        nodes = [*nodes, *new]
        index.insert_nodes(new)
        ask()

        nodes = [danube, *new]
        index = delete(index, nodes)
        assert transform.forget([nintendo], living=nodes) == 1
        ask()

        assert on_disk(tmp_path / "store", entry)
        store.compact()
        assert not on_disk(tmp_path / "store", entry)
        assert verify(store).entries == 2
        assert verify(store).damaged == ()
