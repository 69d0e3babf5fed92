"""Every response mode of LlamaIndex, in every way of asking, with the embedded model."""

import pytest
from llama_index.core import PromptTemplate, get_response_synthesizer
from llama_index.core.response_synthesizers import ResponseMode

from refrag_rag.spans import find_spans, strip_spans
from tests.llama_index.chains import WAYS, check_answers, check_sources, check_vectors, query
from tests.sample_texts import QUESTION, TEXTS

ANSWER = "Edward Smith"
NOTES = {
    "refine": "one prompt a passage",
    "accumulate": "one prompt a passage; cannot stream",
    "compact_accumulate": "cannot stream",
}


def mode(name, result="works", note=""):
    return pytest.mark.mode("LlamaIndex", f"response mode `{name}`", result, note)


def one(name, result="works"):
    return pytest.param(name, id=name, marks=mode(name, result, NOTES.get(name, "")))


def test_the_installed_modes_are_all_in_the_table():
    tested = {"compact", "refine", "tree_summarize", "accumulate", "compact_accumulate"}
    others = {"simple_summarize", "generation", "no_text", "context_only"}
    assert {mode.value for mode in ResponseMode} == tested | others


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [one("compact"), one("refine"), one("tree_summarize")])
def test_modes_of_one_answer(chain, recorded, name, way):
    text, response = query(chain.query_engine(name, streaming="stream" in way), way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)
    assert text == recorded.calls[-1].answer.text
    if name == "compact":
        assert text == ANSWER


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("name", [one("accumulate"), one("compact_accumulate")])
def test_modes_of_several_answers(chain, recorded, name, way):
    text, response = query(chain.query_engine(name), way)
    check_vectors(recorded, hits=2)
    check_sources(response, chain.index)
    answers = [line.partition(": ")[2] for line in text.split("\n---------------------\n")]
    assert sorted(answers) == sorted(call.answer.text for call in recorded.calls)


@pytest.mark.parametrize("way", WAYS)
@mode("simple_summarize", "degrades", "the passages arrive as the repr of a list: escaped text")
def test_simple_summarize_escapes_the_passages(chain, recorded, way):
    engine = chain.query_engine("simple_summarize", streaming="stream" in way)
    text, response = query(engine, way)
    check_answers(recorded)
    check_sources(response, chain.index)
    (call,) = recorded.calls
    assert text == call.answer.text
    assert (call.answer.counts.cache_hits, call.answer.counts.cache_misses) == (2, 0)


@mode("simple_summarize", "degrades")
def test_simple_summarize_makes_misses_of_escaped_lines(chain, recorded):
    """A passage with a line break or quotes is another text once it is escaped."""
    node = chain.index.as_retriever(similarity_top_k=1).retrieve(QUESTION)[0]
    node.node.set_content('It\'s "new".\nThe captain is Edward Smith, not William Murdoch.')
    recorded.precompute([node.node.text])
    marked = chain.mark.postprocess_nodes([node])
    synthesizer = get_response_synthesizer(llm=chain.llm, response_mode="simple_summarize")
    response = synthesizer.synthesize(QUESTION, marked)
    counts = recorded.calls[-1].answer.counts
    assert (counts.cache_hits, counts.cache_misses) == (0, 1)
    assert find_spans(recorded.calls[-1].text)[0].text.count("\\n") == 1
    assert response.source_nodes[0].text == node.node.text
    check_answers(recorded)


@pytest.mark.parametrize("way", ["sync", "async"])
@mode("no_text", "not applicable", "returns the source nodes only")
def test_no_text_gives_the_sources_alone(chain, recorded, way):
    text, response = query(chain.query_engine("no_text"), way)
    assert recorded.calls == []
    check_sources(response, chain.index)
    assert text in ("", "None")


@mode("generation", "not applicable", "asks the LLM without the passages")
def test_generation_leaves_the_passages_out(chain, recorded):
    text, response = query(chain.query_engine("generation"), "sync")
    check_answers(recorded)
    assert recorded.asked == []
    assert text == recorded.calls[0].answer.text
    check_sources(response, chain.index)


@pytest.mark.parametrize("way", ["sync", "async"])
@mode(
    "context_only",
    "not applicable",
    "returns the passages between markers, to be put into a prompt or through `strip_spans`",
)
def test_context_only_gives_marked_text_to_the_caller(chain, recorded, way):
    text, response = query(chain.query_engine("context_only"), way)
    assert recorded.calls == []
    check_sources(response, chain.index)
    assert [span.text for span in find_spans(text)] == [n.text for n in response.source_nodes]
    assert TEXTS["Titanic"] in strip_spans(text)
    chain.llm.complete(f"{text}\n\n{QUESTION}")
    check_vectors(recorded, hits=2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.mode("LlamaIndex", "own prompt templates")
def test_own_templates(chain, recorded, way):
    template = PromptTemplate("Context:\n{context_str}\n\nQuestion: {query_str}")
    engine = chain.query_engine(text_qa_template=template, streaming="stream" in way)
    assert query(engine, way)[0] == ANSWER
    check_vectors(recorded, hits=2)


@mode("compact")
def test_a_plain_completion_model_reads_the_same_vectors(chain, recorded):
    chain.llm.is_chat_model = False
    query(chain.query_engine(), "sync")
    assert isinstance(recorded.calls[0].prompt, str)
    check_vectors(recorded, hits=2)
