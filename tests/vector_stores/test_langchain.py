"""LangChain with vector databases: precomputed while indexing, then updated and deleted."""

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_classic")

from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document

from refrag_rag.langchain import ChatRefrag, RefragCompressor, RefragIndexer, strip_documents
from refrag_rag.store import LMDBStore
from refrag_rag.store.upkeep import verify
from tests.langchain.chains import PROMPT, HashedWords
from tests.recorded import RecordedEngine, check_vectors
from tests.sample_texts import QUESTION, TEXTS
from tests.vector_stores import databases

CHANGED = "The captain of the Titanic was Anna Keld. The Titanic was found in 1985."


def database(name, make, note, *marks):
    row = pytest.mark.mode("LangChain", f"vector database `{name}`", "works", note)
    return pytest.param(make, marks=[row, *marks], id=name)


DATABASES = [
    database("InMemoryVectorStore", databases.lang_memory, "update and delete"),
    database("FAISS", databases.lang_faiss, "update and delete", pytest.mark.slow),
    database("Chroma", databases.lang_chroma, "update and delete", pytest.mark.slow),
    database("Qdrant", databases.lang_qdrant, "local mode, update and delete", pytest.mark.slow),
    database("LanceDB", databases.lang_lancedb, "update and delete", pytest.mark.slow),
    database(
        "pgvector", databases.lang_pgvector, "PostgreSQL, update and delete", pytest.mark.slow
    ),
]


def document(name, text):
    return Document(text, id=databases.point_id(name), metadata={"source": name})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", DATABASES)
def test_indexing_asking_updating_and_deleting(tiny_model, tmp_path, make):
    found = [document(name, text) for name, text in TEXTS.items()]
    with (
        make(tmp_path / "database", HashedWords()) as vectors,
        LMDBStore(tmp_path / "store") as store,
    ):
        engine = RecordedEngine(tiny_model, store=store, p=0.2)
        indexer = RefragIndexer(engine)
        vectors.add_documents(indexer.transform_documents(found))
        chain = create_retrieval_chain(
            ContextualCompressionRetriever(
                base_compressor=RefragCompressor(),
                base_retriever=vectors.as_retriever(search_kwargs={"k": 3}),
            ),
            create_stuff_documents_chain(ChatRefrag(engine, max_tokens=8), PROMPT),
        )

        def ask(passages):
            engine.calls.clear()
            result = chain.invoke({"input": QUESTION})
            check_vectors(engine, passages, spans=[len(passages)])
            plain = strip_documents(result["context"])
            assert sorted(one.page_content for one in plain) == sorted(passages)
            return result["answer"]

        assert "Smith" in ask(list(TEXTS.values()))

        indexer.forget(found[:1])
        vectors.delete([found[0].id])
        vectors.add_documents(indexer.transform_documents([document("Titanic", CHANGED)]))
        ask([CHANGED, TEXTS["Nintendo"], TEXTS["Danube"]])

        assert indexer.forget(found[1:2]) == 1
        vectors.delete([found[1].id])
        ask([CHANGED, TEXTS["Danube"]])

        store.compact()
        assert verify(store).entries == 2
        assert verify(store).damaged == ()
