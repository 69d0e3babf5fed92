"""Agents, routers and sub-questions: the real path, with answers played from a script."""

import asyncio
import json

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.agent.workflow.workflow_events import ToolCallResult
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.selectors import LLMMultiSelector, LLMSingleSelector, PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool, RetrieverTool

from refrag_rag.spans import find_spans
from tests.llama_index.chains import check_sources, check_vectors, query
from tests.sample_texts import OTHER, QUESTION, TEXTS
from tests.scripted import scripted

# LlamaIndex's workflows look at deprecated attributes of pydantic and of themselves.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:is_running called from within:DeprecationWarning"),
]


def mode(name, result="works", note=""):
    return pytest.mark.mode("LlamaIndex", name, result, note)


def retriever_tool(chain):
    return RetrieverTool.from_defaults(
        chain.index.as_retriever(similarity_top_k=2),
        node_postprocessors=[chain.mark],
        name="passages",
        description="Finds passages.",
    )


def query_tool(chain, name="facts"):
    return QueryEngineTool.from_defaults(chain.query_engine(), name=name, description="Answers.")


def ask(agent, chain, question=QUESTION, memory=None):
    """Run an agent; its output and the results of its tools."""

    async def run():
        handler = agent.run(user_msg=question, memory=memory or chain.memory())
        async for event in handler.stream_events():
            if isinstance(event, ToolCallResult):
                results.append(event.tool_output)
        return await handler

    results = []
    return asyncio.run(run()), results


# --- ReAct: the embedded model, prompts as they are ----------------------------------------

ACTION = 'Thought: I look.\nAction: {}\nAction Input: {{"input": "captain Titanic"}}'
DONE = "Thought: I can answer.\nAnswer: Edward Smith"


@pytest.mark.parametrize("streaming", [True, False])
@mode("`ReActAgent` with a `RetrieverTool`", note="the observation holds the spans")
def test_react_agent_reads_retrieved_passages(chain, recorded, streaming):
    agent = ReActAgent(tools=[retriever_tool(chain)], llm=long_answers(chain), streaming=streaming)
    with scripted(recorded.model, ACTION.format("passages"), DONE) as script:
        output, (result,) = ask(agent, chain)
    assert str(output) == "Edward Smith"
    assert [prompt.spans for prompt in script.prompts] == [0, 2]
    check_vectors(recorded, hits=2, scripted=True)
    assert [node.text for node in result.raw_output] == [
        span.text for span in find_spans(result.content)
    ]


@pytest.mark.parametrize("streaming", [True, False])
@mode("`ReActAgent` with a `QueryEngineTool`")
def test_react_agent_asks_a_query_engine(chain, recorded, streaming):
    agent = ReActAgent(tools=[query_tool(chain)], llm=long_answers(chain), streaming=streaming)
    with scripted(recorded.model, ACTION.format("facts"), "Edward Smith", DONE) as script:
        output, (result,) = ask(agent, chain)
    assert str(output) == "Edward Smith"
    assert [prompt.spans for prompt in script.prompts] == [0, 2, 0]
    check_vectors(recorded, hits=2, scripted=True)
    check_sources(result.raw_output, chain.index)


def long_answers(chain):
    chain.llm.max_new_tokens = 64
    return chain.llm


# --- functions: a small model whose template has a place for tools -------------------------


def tool_call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.mark.parametrize("streaming", [True, False])
@mode("`FunctionAgent` with a `RetrieverTool`", note="with a template that takes tools")
def test_function_agent_reads_retrieved_passages(tooled, streaming):
    engine = tooled.engine
    agent = FunctionAgent(tools=[retriever_tool(tooled)], llm=tooled.llm, streaming=streaming)
    memory = tooled.memory()
    lines = [tool_call("passages", input="captain Titanic"), "Edward Smith", "Kyoto"]
    with scripted(engine.model, *lines) as script:
        output, (result,) = ask(agent, tooled, memory=memory)
        again, _ = ask(agent, tooled, OTHER, memory=memory)
    assert (str(output), str(again)) == ("Edward Smith", "Kyoto")
    assert [prompt.spans for prompt in script.prompts] == [0, 2, 2]  # the memory keeps the result
    check_vectors(engine, hits=4, scripted=True)
    assert sorted(node.text for node in result.raw_output) == sorted(
        TEXTS[node.node.ref_doc_id] for node in result.raw_output
    )
    roles = [message["role"] for message in engine.calls[1].prompt]
    assert roles == ["user", "assistant", "tool"]
    assert engine.calls[1].prompt[1]["tool_calls"][0]["function"]["name"] == "passages"


@pytest.mark.parametrize("streaming", [True, False])
@mode("`FunctionAgent` with a `QueryEngineTool`", note="with a template that takes tools")
def test_function_agent_asks_a_query_engine(tooled, streaming):
    engine = tooled.engine
    agent = FunctionAgent(tools=[query_tool(tooled)], llm=tooled.llm, streaming=streaming)
    lines = [tool_call("facts", input=QUESTION), "Edward Smith", "Edward Smith it was."]
    with scripted(engine.model, *lines) as script:
        output, (result,) = ask(agent, tooled)
    assert str(output) == "Edward Smith it was."
    assert [prompt.spans for prompt in script.prompts] == [0, 2, 0]
    check_vectors(engine, hits=2, scripted=True)
    check_sources(result.raw_output, tooled.index)
    assert "Edward Smith" in engine.calls[-1].prompt[-1]["content"]


@pytest.mark.parametrize("parallel", [True, False])
@mode("`FunctionAgent` with a `RetrieverTool`")
def test_parallel_calls_of_a_function_agent(tooled, parallel):
    agent = FunctionAgent(
        tools=[retriever_tool(tooled)], llm=tooled.llm, allow_parallel_tool_calls=parallel
    )
    calls = tool_call("passages", input="Titanic") + tool_call("passages", input="Nintendo")
    with scripted(tooled.engine.model, calls, "Done.") as script:
        _, results = ask(agent, tooled)
    assert len(results) == (2 if parallel else 1)
    assert [prompt.spans for prompt in script.prompts] == [0, 4 if parallel else 2]
    check_vectors(tooled.engine, scripted=True)


@mode(
    "`AgentWorkflow`", note="a `FunctionAgent` where the template takes tools, else a `ReActAgent`"
)
def test_agent_workflow_chooses_the_kind_of_agent(chain, recorded, tooled):
    made = [
        AgentWorkflow.from_tools_or_functions([retriever_tool(c)], llm=c.llm)
        for c in (tooled, chain)
    ]
    kinds = [type(next(iter(workflow.agents.values()))) for workflow in made]
    assert kinds == [FunctionAgent, ReActAgent]
    with scripted(tooled.engine.model, tool_call("passages", input="Titanic"), "Edward Smith"):
        output, _ = ask(made[0], tooled)
    assert str(output) == "Edward Smith"
    check_vectors(tooled.engine, hits=2, scripted=True)


# --- routers and sub-questions -------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "async"])
@mode("query engine `RouterQueryEngine`", note="selectors of text or, with tools, of functions")
def test_router(chain, recorded, way):
    tools = [query_tool(chain, "ships"), query_tool(chain, "firms")]
    selector = LLMSingleSelector.from_defaults(llm=long_answers(chain))
    router = RouterQueryEngine(selector, tools, llm=chain.llm)
    with scripted(recorded.model, '[{"choice": 2, "reason": "r"}]', "Edward Smith"):
        text, response = query(router, way)
    assert text == "Edward Smith"
    assert response.metadata["selector_result"].ind == 1
    check_vectors(recorded, hits=2, scripted=True)
    check_sources(response, chain.index)


@mode("query engine `RouterQueryEngine`")
def test_router_over_several_engines(chain, recorded):
    tools = [query_tool(chain, "ships"), query_tool(chain, "firms")]
    selector = LLMMultiSelector.from_defaults(llm=long_answers(chain))
    router = RouterQueryEngine(
        selector,
        tools,
        llm=chain.llm,
    )
    both = '[{"choice": 1, "reason": "r"}, {"choice": 2, "reason": "r"}]'
    with scripted(recorded.model, both, "Edward", "Smith", "Edward Smith"):
        text, response = query(router, "sync")
    assert text == "Edward Smith"
    check_vectors(recorded, hits=4, scripted=True)
    check_sources(response, chain.index, count=4)


@mode("query engine `RouterQueryEngine`")
def test_router_by_a_function_call(tooled):
    tools = [query_tool(tooled, "ships"), query_tool(tooled, "firms")]
    router = RouterQueryEngine(
        PydanticSingleSelector.from_defaults(llm=tooled.llm), tools, llm=tooled.llm
    )
    line = tool_call("SingleSelection", index=2, reason="r")
    with scripted(tooled.engine.model, line, "Edward Smith"):
        text, response = query(router, "sync")
    assert text == "Edward Smith"
    assert response.metadata["selector_result"].ind == 1
    check_vectors(tooled.engine, hits=2, scripted=True)


@pytest.mark.parametrize("way", ["sync", "async"])
@mode("query engine `SubQuestionQueryEngine`", note="the last step reads the sub-answers as text")
def test_sub_questions(chain, recorded, way):
    llm = long_answers(chain)
    llm.max_new_tokens = 128
    asked = [{"sub_question": q, "tool_name": "facts"} for q in (QUESTION, OTHER)]
    engine = SubQuestionQueryEngine.from_defaults(
        [query_tool(chain)],
        llm=llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
        use_async=False,
    )
    lines = [json.dumps({"items": asked}), "Edward Smith", "Kyoto", "Both"]
    with scripted(recorded.model, *lines) as script:
        text, response = query(engine, way)
    assert text == "Both"
    assert sorted(prompt.spans for prompt in script.prompts) == [0, 0, 2, 2]
    check_vectors(recorded, hits=4, scripted=True)
    named = [node for node in response.source_nodes if node.node.ref_doc_id]
    assert sorted(node.text for node in named) == sorted(
        TEXTS[node.node.ref_doc_id] for node in named
    )
    assert len(named) == 4
