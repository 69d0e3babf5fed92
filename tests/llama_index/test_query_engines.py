"""Query engines other than `as_query_engine`, with the embedded model."""

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.schema import MetadataMode, QueryBundle

from refrag_rag.spans import find_spans
from tests.llama_index.chains import WAYS, check_answers, check_sources, check_vectors, query
from tests.sample_texts import OTHER, TEXTS


def engine_mode(name, result="works", note=""):
    return pytest.mark.mode("LlamaIndex", f"query engine `{name}`", result, note)


@pytest.mark.parametrize("way", WAYS)
@engine_mode("RetrieverQueryEngine")
def test_retriever_query_engine(chain, recorded, way):
    synthesizer = get_response_synthesizer(llm=chain.llm, streaming="stream" in way)
    engine = RetrieverQueryEngine(
        chain.index.as_retriever(similarity_top_k=2),
        response_synthesizer=synthesizer,
        node_postprocessors=[chain.mark],
    )
    text, response = query(engine, way)
    assert text == "Edward Smith"
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)


@pytest.mark.parametrize("way", ["sync", "async"])
@engine_mode("TransformQueryEngine")
def test_transform_query_engine(chain, recorded, way):
    class Ask(BaseQueryTransform):
        def _get_prompts(self):
            return {}

        def _update_prompts(self, prompts):
            pass

        def _run(self, query_bundle, metadata):
            return QueryBundle(OTHER)

    _, response = query(TransformQueryEngine(chain.query_engine(), Ask()), way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)
    assert OTHER in recorded.calls[-1].text


def citation_engine(chain, **settings):
    return CitationQueryEngine.from_args(chain.index, **{**chain.common, **settings})


@pytest.mark.parametrize("way", WAYS)
@engine_mode(
    "CitationQueryEngine", "degrades", "cuts the nodes again and reads them as text, by its default"
)
def test_citations_read_text_by_default(chain, recorded, way):
    text, response = query(citation_engine(chain, streaming="stream" in way), way)
    check_answers(recorded)
    (call,) = recorded.calls
    assert text == call.answer.text
    counts = call.answer.counts
    assert (counts.spans, counts.positions) == (0, counts.plain_positions)
    assert TEXTS["Titanic"] in call.text
    for number, node in enumerate(nodes(response), start=1):
        assert node.text == f"Source {number}:\n{TEXTS[node.node.ref_doc_id]}\n"


@pytest.mark.parametrize("way", WAYS)
@engine_mode("CitationQueryEngine(metadata_mode=MetadataMode.LLM)", note="sources hold the markers")
def test_citations_read_vectors_in_llm_mode(chain, recorded, way):
    engine = citation_engine(chain, metadata_mode=MetadataMode.LLM, streaming="stream" in way)
    text, response = query(engine, way)
    check_vectors(recorded, hits=2)
    assert text == recorded.calls[-1].answer.text
    spans = [find_spans(node.text)[0].text for node in nodes(response)]
    assert spans == [TEXTS[node.node.ref_doc_id] for node in nodes(response)]


@engine_mode("CitationQueryEngine(metadata_mode=MetadataMode.LLM)")
def test_citations_that_are_cut_are_read_as_text(chain, recorded):
    """A marker that lost its partner is removed; no half of a passage is lost."""
    engine = citation_engine(
        chain, metadata_mode=MetadataMode.LLM, citation_chunk_size=24, citation_chunk_overlap=0
    )
    query(engine, "sync")
    check_answers(recorded)
    (call,) = recorded.calls
    read = str(recorded.compress(call.prompt))
    assert "[[refrag" not in read
    assert "Edward Smith" in read


def nodes(response):
    return response.source_nodes
