"""Retrievers and postprocessors that stand before ours, with the embedded model."""

import json

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    SentenceWindowNodeParser,
    get_leaf_nodes,
)
from llama_index.core.postprocessor import (
    LLMRerank,
    MetadataReplacementPostProcessor,
    PIINodePostprocessor,
    SimilarityPostprocessor,
)
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import (
    AutoMergingRetriever,
    QueryFusionRetriever,
    RecursiveRetriever,
)
from llama_index.core.schema import IndexNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from refrag_rag.llama_index import RefragPostprocessor, RefragTransform
from refrag_rag.spans import CLOSE
from tests.llama_index.chains import (
    WAYS,
    HashedWords,
    ScriptedLLM,
    check_answers,
    check_sources,
    check_vectors,
    documents,
    query,
)
from tests.sample_texts import OTHER, QUESTION, TEXTS


def mode(name, result="works", note=""):
    return pytest.mark.mode("LlamaIndex", name, result, note)


def over(retriever, chain, way="sync", marks=None):
    """A query engine over a retriever."""
    return RetrieverQueryEngine.from_args(
        retriever,
        llm=chain.llm,
        node_postprocessors=[chain.mark] if marks is None else marks,
        streaming="stream" in way,
    )


# --- retrievers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fusion", "way"),
    [("simple", "sync"), ("relative_score", "async"), *(("reciprocal_rerank", w) for w in WAYS)],
)
@mode("retriever `QueryFusionRetriever`")
def test_query_fusion(chain, recorded, way, fusion):
    retriever = QueryFusionRetriever(
        [chain.index.as_retriever(similarity_top_k=2)] * 2,
        llm=ScriptedLLM(script=f"{OTHER}\n{QUESTION}"),
        mode=fusion,
        num_queries=3,
        similarity_top_k=2,
        use_async=False,
    )
    text, response = query(over(retriever, chain, way), way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)
    assert text == recorded.calls[-1].answer.text


@pytest.mark.parametrize("way", WAYS)
@mode("retriever `AutoMergingRetriever`", note="encode parents too; a merged parent is looked up")
def test_auto_merging(chain, recorded, way):
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[128, 24], chunk_overlap=0)
    parsed = RefragTransform(recorded)(parser.get_nodes_from_documents(documents()))
    storage = StorageContext.from_defaults(docstore=SimpleDocumentStore())
    storage.docstore.add_documents(parsed)
    leaves = VectorStoreIndex(
        get_leaf_nodes(parsed), storage_context=storage, embed_model=HashedWords()
    )
    retriever = AutoMergingRetriever(
        leaves.as_retriever(similarity_top_k=6), storage, simple_ratio_thresh=0.3
    )
    text, response = query(over(retriever, chain, way), way)
    check_vectors(recorded)
    assert TEXTS["Titanic"] in [node.text for node in response.source_nodes]
    for item in response.source_nodes:
        assert item.text == storage.docstore.get_node(item.node_id).get_content()
    assert text == recorded.calls[-1].answer.text


@pytest.mark.parametrize("way", WAYS)
@mode("retriever `RecursiveRetriever` over index nodes")
def test_recursive_retriever(chain, recorded, way):
    by_name = {name: chain.index.docstore.get_node(key) for name, key in ids(chain.index).items()}
    entries = [IndexNode(text=name, index_id=name) for name in TEXTS]
    names = VectorStoreIndex(entries, embed_model=HashedWords())
    retriever = RecursiveRetriever(
        "root",
        retriever_dict={"root": names.as_retriever(similarity_top_k=2)},
        node_dict=by_name,
    )
    _, response = query(over(retriever, chain, way), way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)


def ids(index):
    return {node.ref_doc_id: key for key, node in index.docstore.docs.items()}


# --- postprocessors before ours ------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@mode(
    "sentence window with `MetadataReplacementPostProcessor`",
    note="windows are not indexed: `RefragPostprocessor(engine)` encodes them in one batch",
)
def test_sentence_windows(chain, recorded, way):
    parser = SentenceWindowNodeParser.from_defaults(window_size=1)
    index = VectorStoreIndex(
        parser.get_nodes_from_documents(documents()), embed_model=HashedWords()
    )
    replace = MetadataReplacementPostProcessor(target_metadata_key="window")
    marks = [replace, RefragPostprocessor(recorded)]
    _, response = query(over(index.as_retriever(similarity_top_k=2), chain, way, marks), way)
    check_vectors(recorded, hits=2)
    for item in response.source_nodes:
        assert item.text == item.node.metadata["window"]
        assert CLOSE not in item.text


@pytest.mark.parametrize("way", ["sync", "async"])
@mode("a reranker before us (`LLMRerank`, by an LLM of its own or ours)")
def test_reranker(chain, recorded, way):
    judge = ScriptedLLM(script="Doc: 2, Relevance: 9\nDoc: 1, Relevance: 5\n")
    rerank = LLMRerank(llm=judge, choice_batch_size=5, top_n=2)
    _, response = query(chain.query_engine(node_postprocessors=[rerank, chain.mark]), way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)
    assert [item.score for item in response.source_nodes] == [9.0, 5.0]
    assert "[[refrag" not in judge.prompts[0]
    assert TEXTS["Titanic"] in judge.prompts[0]


@mode("a reranker before us (`LLMRerank`, by an LLM of its own or ours)")
def test_our_llm_reranks_plain_text(chain, recorded):
    rerank = LLMRerank(llm=chain.llm, parse_choice_select_answer_fn=lambda *_: ([2, 1], [0.9, 0.5]))
    _, response = query(chain.query_engine(node_postprocessors=[rerank, chain.mark]), "sync")
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)
    assert recorded.calls[0].answer.counts.spans == 0


@mode("`SimilarityPostprocessor` before us")
def test_a_cutoff_may_leave_nothing(chain, recorded):
    cut = SimilarityPostprocessor(similarity_cutoff=2.0)
    text, response = query(chain.query_engine(node_postprocessors=[cut, chain.mark]), "sync")
    assert (text, response.source_nodes, recorded.calls) == ("Empty Response", [], [])
    cut = SimilarityPostprocessor(similarity_cutoff=0.01)
    query(chain.query_engine(node_postprocessors=[cut, chain.mark]), "sync")
    check_vectors(recorded, hits=2)


def masking(text):
    """A PII postprocessor whose LLM gives this text."""
    answer = f"{text}\nOutput Mapping:\n{json.dumps({'NAME1': 'Edward Smith'})}"
    return PIINodePostprocessor(llm=ScriptedLLM(script=answer))


@pytest.mark.parametrize("way", ["sync", "async"])
@mode(
    "a PII postprocessor before us",
    note="masked text is new text: `RefragPostprocessor(engine)` encodes it",
)
def test_pii_stays_masked(chain, recorded, way):
    masked = "The captain of the Titanic was [NAME1]. The Titanic was lost in 1912. It had stairs."
    marks = [masking(masked), RefragPostprocessor(recorded)]
    _, response = query(chain.query_engine(node_postprocessors=marks, similarity_top_k=1), way)
    check_vectors(recorded, hits=1)
    assert "Edward" not in str(recorded.compress(recorded.calls[-1].prompt))
    (item,) = response.source_nodes
    assert item.text == masked
    assert item.node.metadata["__pii_node_info__"] == {"NAME1": "Edward Smith"}
    assert chain.index.docstore.get_node(item.node_id).text == TEXTS["Titanic"]


@mode("a PII postprocessor behind us", "degrades", "its LLM meets the markers; put ours last")
def test_pii_behind_us_masks_what_it_reads(chain, recorded):
    pii = masking("[[refrag score=0.5]]The captain was [NAME1].[[/refrag]]")
    marks = [chain.mark, pii]
    query(chain.query_engine(node_postprocessors=marks, similarity_top_k=1), "sync")
    check_answers(recorded)
    read = str(recorded.compress(recorded.calls[-1].prompt))
    assert "Edward" not in read
    assert "[[/refrag" not in read
    counts = recorded.calls[-1].answer.counts
    assert (counts.spans, counts.cache_misses) == (1, 1)
