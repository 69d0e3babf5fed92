"""Numbered passages in LangChain: an agent reads vectors, asks for a text, and answers."""

import asyncio
import json

import pytest

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from refrag_rag.langchain import ChatRefrag, NumberedPassages
from refrag_rag.spans import find_spans, strip_spans
from tests.docs_examples import run_example
from tests.recorded import plain_text
from tests.sample_texts import QUESTION
from tests.scripted import scripted

MODE = {"framework": "LangChain", "name": "create_agent, NumberedPassages", "result": "works"}


def call(**arguments):
    return f"<tool_call>\n{json.dumps({'name': 'expand', 'arguments': arguments})}\n</tool_call>"


def answers(messages):
    return [message.content for message in messages if isinstance(message, ToolMessage)]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.mode(**MODE, note="the tool gives a passage's text back; by script")
def test_an_agent_reads_vectors_asks_for_a_text_and_answers(agent_chain, asynchronous):
    found = agent_chain.plain.invoke(QUESTION)
    numbered = NumberedPassages(agent_chain.engine)
    agent = create_agent(agent_chain.chat, [numbered.tool()])

    async def run():
        ask = {"messages": [HumanMessage(await numbered.aprompt(QUESTION, found))]}
        return await agent.ainvoke(ask)

    lines = [call(segment_id="seg_2"), "Edward Smith."]
    with scripted(agent_chain.engine.model, *lines) as script:
        if asynchronous:
            state = asyncio.run(run())
        else:
            state = agent.invoke({"messages": [HumanMessage(numbered.prompt(QUESTION, found))]})
    assert state["messages"][-1].content == "Edward Smith."
    assert answers(state["messages"]) == [found[1].page_content]
    first, second = script.prompts
    assert (first.spans, second.spans) == (2, 2)
    assert first.question == QUESTION
    for document in found:
        assert document.page_content not in plain_text(first)
    assert found[1].page_content in plain_text(second)
    assert found[0].page_content not in plain_text(second)
    assert "seg_1" in plain_text(first)
    counts = state["messages"][-1].response_metadata
    assert (counts["cache_hits"], counts["cache_misses"]) == (2, 0)


def test_calls_that_cannot_be_are_answered_in_the_loop(agent_chain):
    numbered = NumberedPassages(max_calls=5)
    agent = create_agent(agent_chain.chat, [numbered.tool()])
    prompt = numbered.prompt(QUESTION, agent_chain.plain.invoke(QUESTION))
    wrong = [{"segment_id": "seg_9"}, {"id": 1}, {"segment_id": [1]}, {}, {"segment_id": 1}]
    with scripted(agent_chain.engine.model, *(call(**one) for one in [*wrong, *wrong[:1]]), "No."):
        state = agent.invoke({"messages": prompt})
    said = answers(state["messages"])
    assert [one[:20] for one in said[:4]] == ["There is no segment "] * 4
    assert said[4] == agent_chain.plain.invoke(QUESTION)[0].page_content
    assert said[5].startswith("All 5 calls are used")


def test_a_search_shows_numbered_passages_turn_by_turn(agent_chain):
    numbered = NumberedPassages(agent_chain.engine)

    def search(query: str) -> str:
        """Searches."""
        return numbered.show(agent_chain.plain.invoke(query))

    agent = create_agent(agent_chain.chat, [search, numbered.tool()])
    look = '<tool_call>\n{"name": "search", "arguments": {"query": "Nintendo"}}\n</tool_call>'
    lines = [look, call(segment_id="seg_1"), "Kyoto."]
    with scripted(agent_chain.engine.model, *lines) as script:
        state = agent.invoke({"messages": "Where is Nintendo?"})
    assert [prompt.spans for prompt in script.prompts] == [0, 2, 2]
    shown, text = answers(state["messages"])
    assert strip_spans(shown).startswith(f"seg_1\n{text}\n\nseg_2\n")


def test_the_example_of_the_docs_runs(agent_chain):
    names = {"engine": agent_chain.engine, "ChatRefrag": ChatRefrag}
    names["vector_store"] = agent_chain.plain.vectorstore
    with scripted(agent_chain.engine.model, call(segment_id="seg_1"), "Smith."):
        state = run_example("langchain.md", "Numbered passages and `expand`", names)["state"]
    assert answers(state["messages"]) == [names["documents"][0].page_content]
    assert state["messages"][-1].content == "Smith."


def test_the_tool_alone():
    numbered = NumberedPassages(title_key="title", max_calls=20)
    documents = [
        Document("Ada sat.", metadata={"title": "T", "relevance_score": 0.5}),
        Document(" "),
        {"page_content": "Bo [[/refrag]] ran.", "metadata": {}},
    ]
    spans = find_spans(numbered.show(documents))
    assert [(span.text, span.score) for span in spans] == [
        ("title: T\n\nAda sat.", 0.5),
        ("Bo [ [/refrag]] ran.", None),
    ]
    tool = numbered.tool()
    function = convert_to_openai_tool(tool)["function"]
    assert function["name"] == "expand"
    assert function["parameters"]["required"] == ["segment_id"]
    assert tool.invoke("seg_1") == tool.invoke({"segment_id": 1}) == "title: T\n\nAda sat."
    assert asyncio.run(tool.ainvoke({"segment_id": "seg_2"})) == "Bo [ [/refrag]] ran."
    assert asyncio.run(tool.ainvoke({})).startswith("There is no segment")
