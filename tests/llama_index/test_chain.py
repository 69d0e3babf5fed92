"""LlamaIndex adapters over a FAISS index: places of metadata, hits and misses, persistence."""

from typing import Any

import pytest

pytest.importorskip("llama_index.core")
faiss = pytest.importorskip("faiss")
pytest.importorskip("llama_index.vector_stores.faiss")

from llama_index.core import (
    Document,
    PromptTemplate,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode
from llama_index.vector_stores.faiss import FaissVectorStore

from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform
from refrag_rag.spans import CLOSE, find_spans
from tests.llama_index.chains import HashedWords
from tests.sample_texts import WIDTH

DOCUMENTS = [
    Document(text=text, id_=name, metadata={"title": name})
    for name, text in {
        "Aru": "Aru lies in the north. Its capital is Belo. The river Ona crosses Aru.",
        "Kesh": "Kesh exports tin. Its capital is Dorn, a town of 900 people.",
        "Mira": "Mira was founded in 1871 by Ada Lunn. It builds clocks.",
    }.items()
]
QUESTION = "What is the capital of Kesh?"
SHORT = PromptTemplate("{context_str}\nQ: {query_str}\nA:")
SHORT_REFINE = PromptTemplate("{context_msg}\nQ: {query_str}\nWas: {existing_answer}\nA:")


def splitter():
    """A splitter that counts words: its default tokenizer does not travel to other processes."""
    return SentenceSplitter(chunk_size=64, chunk_overlap=0, tokenizer=str.split)


class KeepCounts(BaseEventHandler):
    """Keeps the counts of every chat answer."""

    kept: list[dict[str, Any]] = Field(default_factory=list)

    def handle(self, event, **kwargs):
        if isinstance(event, LLMChatEndEvent):
            self.kept.append(event.response.raw)


@pytest.fixture
def counts():
    """Counts of every answer so far, in order."""
    handlers, handler = get_dispatcher().event_handlers, KeepCounts()
    handlers.append(handler)
    yield handler.kept
    handlers.remove(handler)


def passages_read(counts):
    """Cache hits and misses of every answer."""
    return [(answer["cache_hits"], answer["cache_misses"]) for answer in counts]


class Chain:
    """An index over DOCUMENTS, an LLM and a postprocessor."""

    def __init__(self, engine, metadata="compressed", transform=True):
        steps = [splitter(), *([RefragTransform(engine, metadata=metadata)] if transform else [])]
        vectors = FaissVectorStore(faiss_index=faiss.IndexFlatL2(WIDTH))
        self.index = VectorStoreIndex.from_documents(
            DOCUMENTS,
            storage_context=StorageContext.from_defaults(vector_store=vectors),
            transformations=steps,
            embed_model=HashedWords(),
        )
        self.llm = RefragLLM(engine, max_new_tokens=4)
        self.mark = RefragPostprocessor(metadata=metadata)

    def query_engine(self, mode="compact", **settings):
        settings.setdefault("node_postprocessors", [self.mark])
        return self.index.as_query_engine(
            llm=self.llm,
            similarity_top_k=2,
            response_mode=mode,
            text_qa_template=SHORT,
            refine_template=SHORT_REFINE,
            summary_template=SHORT,
            **settings,
        )


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
def test_indexed_passages_are_read_from_the_store(engine, counts, mode):
    chain = Chain(engine)
    stored = {key: node.to_dict() for key, node in chain.index.docstore.docs.items()}
    response = chain.query_engine(mode).query(QUESTION)
    assert [node.score for node in response.source_nodes] == sorted(
        node.score for node in response.source_nodes
    )
    assert all(CLOSE not in node.text for node in response.source_nodes)
    assert {key: node.to_dict() for key, node in chain.index.docstore.docs.items()} == stored
    assert [sum(column) for column in zip(*passages_read(counts), strict=True)] == [2, 0]
    assert all(answer["positions"] < answer["plain_positions"] for answer in counts)


@pytest.mark.parametrize("metadata", ["compressed", "text", "drop"])
def test_every_metadata_mode_hits_the_store(engine, counts, metadata):
    chain = Chain(engine, metadata)
    chain.query_engine().query(QUESTION)
    assert passages_read(counts) == [(2, 0)]


def test_passages_that_were_not_indexed_are_counted_as_misses(engine, counts):
    chain = Chain(engine, transform=False)
    chain.query_engine().query(QUESTION)
    assert passages_read(counts) == [(0, 2)]


def test_the_postprocessor_encodes_what_is_missing(engine, counts):
    chain = Chain(engine, transform=False)
    chain.query_engine(node_postprocessors=[RefragPostprocessor(engine)]).query(QUESTION)
    assert passages_read(counts) == [(2, 0)]


def test_an_ingestion_cache_hit_heals_as_misses(engine, monkeypatch):
    encoded = []
    precompute = engine.precompute

    def counted(texts, **settings):
        encoded.append(list(texts))
        return precompute(texts, **settings)

    monkeypatch.setattr(engine, "precompute", counted)
    cache = IngestionCache()
    for _ in range(2):
        steps = [splitter(), RefragTransform(engine)]
        nodes = IngestionPipeline(transformations=steps, cache=cache).run(documents=DOCUMENTS)
    assert len(encoded) == 1
    assert encoded[0] == [node.get_content(metadata_mode=MetadataMode.LLM) for node in nodes]
    engine.store.delete(engine.namespace, list(engine.store.keys(engine.namespace)))
    index = VectorStoreIndex(nodes, embed_model=HashedWords())
    llm = RefragLLM(engine, max_new_tokens=2)
    index.as_query_engine(llm=llm, node_postprocessors=[RefragPostprocessor()]).query(QUESTION)
    nodes = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    RefragPostprocessor(engine).postprocess_nodes(nodes)
    assert encoded[1] == [nodes[0].get_content(metadata_mode=MetadataMode.LLM)]


def test_a_persisted_index_holds_no_markers_and_works_again(engine, counts, tmp_path):
    chain = Chain(engine)
    first = str(chain.query_engine().query(QUESTION))
    chain.index.storage_context.persist(str(tmp_path))
    text_files = [path for path in tmp_path.glob("*.json") if "vector_store" not in path.name]
    assert text_files
    assert all(CLOSE not in path.read_text() for path in text_files)
    storage = StorageContext.from_defaults(
        vector_store=FaissVectorStore.from_persist_dir(str(tmp_path)), persist_dir=str(tmp_path)
    )
    chain.index = load_index_from_storage(storage, embed_model=HashedWords())
    assert str(chain.query_engine().query(QUESTION)) == first
    assert passages_read(counts)[-1] == (2, 0)


def test_the_tokenizer_counts_a_span_as_its_positions(engine):
    chain = Chain(engine)
    node = chain.index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    text = chain.mark.postprocess_nodes(node)[0].node.get_content(metadata_mode=MetadataMode.LLM)
    count = chain.llm.tokenizer()
    assert len(count(text)) < len(count(find_spans(text)[0].text)) / 2
