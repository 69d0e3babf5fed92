"""Ingestion pipelines, document stores and persisted indexes, with the embedded model."""

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform
from refrag_rag.spans import CLOSE
from tests.conftest import TINY
from tests.llama_index.chains import HashedWords, check_sources, check_vectors, documents, query
from tests.sample_texts import QUESTION, TEXTS

NEW = "The captain of the Titanic was Rosa Tarmin. The Titanic is a film. It was made in 1997."


def mode(name, result="works", note=""):
    return pytest.mark.mode("LlamaIndex", name, result, note)


@pytest.fixture
def encoded(recorded, monkeypatch):
    """The texts that were given to `precompute`, call by call."""
    given = []
    precompute = recorded.precompute

    def counted(texts, **settings):
        given.append(list(texts))
        return precompute(texts, **settings)

    monkeypatch.setattr(recorded, "precompute", counted)
    return given


def steps(engine):
    return [SentenceSplitter(chunk_size=256), RefragTransform(engine)]


def ask(engine, index):
    response = index.as_query_engine(
        llm=RefragLLM(engine, max_new_tokens=8),
        node_postprocessors=[RefragPostprocessor()],
        similarity_top_k=2,
    ).query(QUESTION)
    return str(response), response


@mode(
    "`IngestionPipeline` with a cache",
    note="a hit skips the transformation: nothing is "
    "encoded twice; what the store lost is encoded when it is asked for, and counted",
)
def test_a_cache_hit_encodes_nothing_and_answers_the_same(recorded, encoded, tmp_path):
    cache = IngestionCache()
    first = IngestionPipeline(transformations=steps(recorded), cache=cache).run(
        documents=documents()
    )
    cache.persist(str(tmp_path / "cache.json"))
    assert CLOSE not in (tmp_path / "cache.json").read_text()
    again = IngestionCache.from_persist_path(str(tmp_path / "cache.json"))
    nodes = IngestionPipeline(transformations=steps(recorded), cache=again).run(
        documents=documents()
    )
    assert [sorted(texts) for texts in encoded] == [sorted(TEXTS.values())]
    assert [node.text for node in nodes] == [node.text for node in first]
    index = VectorStoreIndex(nodes, embed_model=HashedWords())
    _, response = ask(recorded, index)
    check_vectors(recorded, hits=2)
    check_sources(response, index)
    recorded.store.delete(recorded.namespace, list(recorded.store.keys(recorded.namespace)))
    text, _ = ask(recorded, index)
    assert text == recorded.calls[0].answer.text
    assert recorded.calls[1].answer.counts.cache_misses == 2


@pytest.mark.parametrize(
    "strategy", [DocstoreStrategy.UPSERTS, DocstoreStrategy.UPSERTS_AND_DELETE]
)
@mode(
    "`IngestionPipeline` with docstore upserts", note="only new and changed documents are encoded"
)
def test_upserts_encode_what_is_new(recorded, encoded, strategy):
    vectors = SimpleVectorStore()
    pipeline = IngestionPipeline(
        transformations=[*steps(recorded), HashedWords()],
        docstore=SimpleDocumentStore(),
        vector_store=vectors,
        docstore_strategy=DocstoreStrategy(strategy),
        disable_cache=True,
    )
    pipeline.run(documents=documents())
    changed = [d for d in documents() if d.id_ != "Titanic"] + [Document(text=NEW, id_="Titanic")]
    nodes = pipeline.run(documents=changed)
    assert pipeline.run(documents=changed) == []
    assert [sorted(texts) for texts in encoded if texts] == [sorted(TEXTS.values()), [NEW]]
    assert [node.text for node in nodes] == [NEW]
    index = VectorStoreIndex(nodes, embed_model=HashedWords())
    _, response = ask(recorded, index)
    check_vectors(recorded, hits=1)
    assert response.source_nodes[0].text == NEW


@mode(
    "`IngestionPipeline` with `num_workers=2`",
    note="give the transformation `model_name` and `store`: every worker loads the model",
)
@pytest.mark.slow
def test_two_workers_fill_one_store(tmp_path):
    settings = {"model_name": TINY, "store": tmp_path / "store"}
    # A splitter that counts words: its default tokenizer does not travel to other processes.
    split = SentenceSplitter(chunk_size=64, chunk_overlap=0, tokenizer=str.split)
    pipeline = IngestionPipeline(
        transformations=[split, RefragTransform(**settings)], disable_cache=True
    )
    nodes = pipeline.run(documents=documents(), num_workers=2)
    index = VectorStoreIndex(nodes, embed_model=HashedWords())
    llm = RefragLLM(**settings, max_new_tokens=4)
    engine = index.as_query_engine(llm=llm, node_postprocessors=[RefragPostprocessor()])
    _, response = query(engine, "sync")
    check_sources(response)
    assert len(list(llm.engine.store.keys(llm.engine.namespace))) == len(TEXTS)


@pytest.mark.parametrize("way", ["sync", "async"])
@mode("a persisted index, loaded again", note="files hold no markers and no vectors of ours")
def test_a_persisted_index_holds_no_markers_and_answers_the_same(chain, recorded, tmp_path, way):
    text, _ = query(chain.query_engine(), way)
    chain.index.storage_context.persist(str(tmp_path))
    assert all(CLOSE not in path.read_text() for path in tmp_path.glob("*.json"))
    chain.index = load_index_from_storage(
        StorageContext.from_defaults(persist_dir=str(tmp_path)), embed_model=HashedWords()
    )
    again, response = query(chain.query_engine(), way)
    assert again == text
    check_vectors(recorded, hits=4)
    check_sources(response, chain.index)


@mode(
    "insert, update, refresh and delete of documents in an index",
    note="updated text is encoded by the transformation of the index",
)
def test_documents_that_change_in_an_index(chain, recorded, encoded):
    chain.index.insert(Document(text="The Matterhorn is 4,478 m high.", id_="Matterhorn"))
    chain.index.update_ref_doc(Document(text=NEW, id_="Titanic"))
    changed = [
        Document(text=TEXTS["Nintendo"], id_="Nintendo"),
        Document(text=NEW + " Yes.", id_="X"),
    ]
    assert chain.index.refresh_ref_docs(changed) == [False, True]
    chain.index.delete_ref_doc("X", delete_from_docstore=True)
    assert encoded == [["The Matterhorn is 4,478 m high."], [NEW], [NEW + " Yes."]]
    _, response = query(chain.query_engine(), "sync")
    check_vectors(recorded, hits=2)
    assert response.source_nodes[0].text == NEW
    assert TEXTS["Titanic"] not in [node.text for node in response.source_nodes]
