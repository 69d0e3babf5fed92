"""Synthesizers that build prompts from content blocks."""

import pytest
from llama_index.core import get_response_synthesizer
from llama_index.core.schema import MediaResource, Node, NodeWithScore

from refrag_rag.errors import InputError
from refrag_rag.llama_index import RefragPostprocessor
from refrag_rag.spans import find_spans
from tests.llama_index.chains import WAYS, check_sources, check_vectors, query
from tests.sample_texts import QUESTION, TEXTS

mode = pytest.mark.mode(
    "LlamaIndex",
    "multimodal synthesizers (compact, refine, tree_summarize, simple_summarize)",
    note="text passages; an image in the prompt is an InputError",
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["compact", "refine", "tree_summarize", "simple_summarize"])
@mode
def test_blocks_of_text_are_read_as_vectors(chain, recorded, name, way):
    engine = chain.query_engine(name, multimodal=True, streaming="stream" in way)
    text, response = query(engine, way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)
    assert text == recorded.calls[-1].answer.text


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("name", ["accumulate", "compact_accumulate"])
@pytest.mark.mode("LlamaIndex", "multimodal synthesizers (accumulate, compact_accumulate)")
def test_blocks_of_text_with_several_answers(chain, recorded, name, way):
    _, response = query(chain.query_engine(name, multimodal=True), way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)


@mode
def test_an_image_in_the_prompt_is_a_clear_error(chain, recorded):
    pixel = MediaResource(data=b"aGk=", mimetype="image/png")
    node = Node(text_resource=MediaResource(text="A ship."), image_resource=pixel)
    marked = RefragPostprocessor(recorded).postprocess_nodes([NodeWithScore(node=node)])
    synthesizer = get_response_synthesizer(chain.llm, response_mode="compact", multimodal=True)
    with pytest.raises(InputError, match="ImageBlock"):
        synthesizer.synthesize(QUESTION, marked)
    # Without blocks the picture is no part of the prompt, and its text is read as text.
    get_response_synthesizer(chain.llm, response_mode="compact").synthesize(QUESTION, marked)
    assert recorded.calls[-1].answer.counts.spans == 0
    assert "A ship." in recorded.calls[-1].text


def test_context_only_of_blocks_gives_marked_text(chain, recorded):
    engine = chain.query_engine("context_only", multimodal=True)
    text, _ = query(engine, "sync")
    assert {span.text for span in find_spans(text)} <= set(TEXTS.values())
    assert recorded.calls == []
