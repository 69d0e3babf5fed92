"""Numbered passages in LlamaIndex: an agent reads vectors, asks for a text, and answers."""

import asyncio
import json

import pytest
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.schema import ImageNode, NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from refrag_rag.llama_index import NumberedPassages, RefragLLM
from refrag_rag.spans import find_spans, strip_spans
from tests.docs_examples import run_example
from tests.llama_index.test_agents import DONE, ask, long_answers
from tests.recorded import plain_text
from tests.sample_texts import QUESTION
from tests.scripted import scripted

# LlamaIndex's workflows look at deprecated attributes of pydantic and of themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within:DeprecationWarning"),
]
NOTE = "the tool gives a passage's text back; by script"


def mode(name):
    return pytest.mark.mode("LlamaIndex", name, "works", NOTE)


def call(name="expand", **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def retrieve(chain, question=QUESTION):
    return chain.index.as_retriever(similarity_top_k=2).retrieve(question)


def check(script, nodes, output, results, counts):
    """Vectors first, the text of the second passage after it was asked for, then the answer."""
    assert str(output) == "Edward Smith"
    assert [result.content for result in results] == [nodes[1].node.get_content()]
    first, second = script.prompts
    assert (first.spans, second.spans) == (2, 2)
    for node in nodes:
        assert node.node.get_content() not in plain_text(first)
    assert nodes[1].node.get_content() in plain_text(second)
    assert nodes[0].node.get_content() not in plain_text(second)
    assert (counts.cache_hits, counts.cache_misses) == (2, 0)


@pytest.mark.parametrize("streaming", [True, False])
@mode("`FunctionAgent` with `NumberedPassages`")
def test_a_function_agent_reads_vectors_asks_for_a_text_and_answers(tooled, streaming):
    nodes = retrieve(tooled)
    numbered = NumberedPassages(tooled.engine, metadata="drop")
    agent = FunctionAgent(tools=[numbered.tool()], llm=tooled.llm, streaming=streaming)
    with scripted(tooled.engine.model, call(segment_id="seg_2"), "Edward Smith") as script:
        output, results = ask(agent, tooled, numbered.prompt(QUESTION, nodes))
    check(script, nodes, output, results, tooled.engine.calls[-1].answer.counts)
    assert script.prompts[0].question == QUESTION


@mode("`ReActAgent` with `NumberedPassages`")
def test_a_react_agent_reads_vectors_asks_for_a_text_and_answers(chain, recorded):
    nodes = retrieve(chain)
    numbered = NumberedPassages(recorded, metadata="drop")
    agent = ReActAgent(tools=[numbered.tool()], llm=long_answers(chain))
    action = 'Thought: I look.\nAction: expand\nAction Input: {"segment_id": "seg_2"}'
    with scripted(recorded.model, action, DONE) as script:
        output, results = ask(agent, chain, numbered.prompt(QUESTION, nodes))
    check(script, nodes, output, results, recorded.calls[-1].answer.counts)


def test_calls_that_cannot_be_are_answered_in_the_loop(tooled):
    numbered = NumberedPassages(max_calls=5)
    agent = FunctionAgent(tools=[numbered.tool()], llm=tooled.llm)
    wrong = [{"segment_id": "seg_9"}, {"id": 1}, {"segment_id": [1, 2]}, {}, {"segment_id": 1}]
    lines = [call(**one) for one in [*wrong, *wrong[:1]]]
    with scripted(tooled.engine.model, *lines, "No."):
        _, results = ask(agent, tooled, numbered.prompt(QUESTION, retrieve(tooled)))
    said = [result.content for result in results]
    assert [one[:20] for one in said[:4]] == ["There is no segment "] * 4
    assert not any(result.is_error for result in results)
    assert "captain" in said[4]
    assert said[5].startswith("All 5 calls are used")


def test_a_search_shows_numbered_passages_turn_by_turn(tooled):
    numbered = NumberedPassages(tooled.engine)

    def search(query: str) -> str:
        """Searches."""
        return numbered.show(retrieve(tooled, query))

    tools = [FunctionTool.from_defaults(search), numbered.tool()]
    agent = FunctionAgent(tools=tools, llm=tooled.llm)
    lines = [call("search", query="Nintendo"), call(segment_id="seg_1"), "Kyoto."]
    with scripted(tooled.engine.model, *lines) as script:
        _, (shown, text) = ask(agent, tooled)
    assert [prompt.spans for prompt in script.prompts] == [0, 2, 2]
    assert strip_spans(shown.content).startswith(f"seg_1\n{text.content}\n\nseg_2\n")


def test_the_example_of_the_docs_runs(tooled):
    names = {"engine": tooled.engine, "index": tooled.index, "RefragLLM": RefragLLM}
    with scripted(tooled.engine.model, call(segment_id="seg_1"), "Smith."):
        names = run_example("llama_index.md", "Numbered passages and `expand`", names)
    assert str(names["answer"]) == "Smith."
    assert names["numbered"].calls == ["seg_1"]


def test_the_tool_alone():
    numbered = NumberedPassages(max_calls=20)
    nodes = [
        TextNode(text="Ada sat.", metadata={"file": "a.txt"}),
        ImageNode(image="aaaa"),
        NodeWithScore(node=TextNode(text="Bo [[/refrag]] ran."), score=0.5),
    ]
    shown = asyncio.run(numbered.ashow(nodes))
    assert [(span.text, span.score) for span in find_spans(shown)] == [
        ("file: a.txt\n\nAda sat.", None),
        ("Bo [ [/refrag]] ran.", 0.5),
    ]
    tool = numbered.tool()
    function = tool.metadata.to_openai_tool()["function"]
    assert function["name"] == "expand"
    assert function["parameters"]["required"] == ["segment_id"]
    assert str(tool("seg_1")) == str(tool(segment_id=1)) == "file: a.txt\n\nAda sat."
    assert str(asyncio.run(tool.acall(segment_id="seg_2"))) == "Bo [ [/refrag]] ran."
    assert str(asyncio.run(tool.acall())).startswith("There is no segment")
