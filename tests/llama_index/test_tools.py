"""RefragLLM as a function-calling LLM, where the chat template has a place for tools."""

import asyncio
import json

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.tools import FunctionTool

from refrag_rag.errors import InputError, RefragError
from refrag_rag.llama_index import RefragLLM
from refrag_rag.llama_index.messages import plain_messages
from refrag_rag.spans import wrap
from tests.conftest import build_model
from tests.recorded import RecordedEngine
from tests.scripted import scripted
from tests.tool_templates import TEMPLATES, with_template

PASSAGE = "Kesh exports tin. Its capital is Dorn, a town of 900 people by the river Ona."


def search(query: str) -> str:
    """Search the passages."""
    return f"{query}: {PASSAGE}"


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [FunctionTool.from_defaults(search), FunctionTool.from_defaults(add)]


def call(tool, /, **arguments):
    return f"<tool_call>{json.dumps({'name': tool, 'arguments': arguments})}</tool_call>"


@pytest.fixture
def engine(tokenizer):
    return RecordedEngine(build_model(with_template(tokenizer, "hermes")))


@pytest.fixture
def llm(engine):
    return RefragLLM(engine, max_new_tokens=200)


def read(response):
    """Text and calls of a response."""
    calls = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
    return response.message.content, [(one.tool_name, one.tool_kwargs) for one in calls]


def all_ways(llm, line, **settings):
    """The last response of each way of chatting with tools."""
    ask = {"tools": TOOLS, "user_msg": "Where?", **settings}

    async def later():
        stream = await llm.astream_chat_with_tools(**ask)
        return [await llm.achat_with_tools(**ask), [response async for response in stream][-1]]

    with scripted(llm.engine.model, *[line] * 4):
        now = [llm.chat_with_tools(**ask), list(llm.stream_chat_with_tools(**ask))[-1]]
        return [*now, *asyncio.run(later())]


def test_only_a_template_with_tools_makes_a_function_calling_model(engine, model):
    assert RefragLLM(engine).metadata.is_function_calling_model
    assert not RefragLLM(RecordedEngine(model)).metadata.is_function_calling_model
    assert not RefragLLM(engine, is_chat_model=False).metadata.is_function_calling_model
    own = RefragLLM(engine, messages_to_prompt=lambda messages: "text")
    assert not own.metadata.is_function_calling_model
    plain = RefragLLM(RecordedEngine(model))
    with pytest.raises(InputError, match="tools"):
        plain.chat_with_tools(TOOLS, user_msg="Where?")


@pytest.mark.parametrize("tools", ["search", [{"name": "f"}], [None]])
def test_tools_of_another_shape_are_refused(llm, tools):
    with pytest.raises(InputError, match="expected"):
        llm.chat([ChatMessage(content="Where?")], tools=tools)
    with pytest.raises(InputError, match="expected"):
        list(llm.stream_chat([ChatMessage(content="Where?")], tools=tools))


def test_calls_come_as_blocks_in_every_way(llm):
    line = "See: " + call("search", query="Kesh") + call("add", a=1)
    for response in all_ways(llm, line, allow_parallel_tool_calls=True):
        found = [("search", {"query": "Kesh"}), ("add", {"a": 1})]
        assert read(response) == ("See:", found)
        selected = llm.get_tool_calls_from_response(response)
        assert [(one.tool_name, one.tool_kwargs) for one in selected] == found
        assert len({one.tool_id for one in selected}) == 2
        assert response.raw["positions"] > 0


def test_one_call_is_kept_where_several_are_not_wanted(llm):
    for response in all_ways(llm, call("add", a=1) + call("add", a=2)):
        assert read(response) == (None, [("add", {"a": 1})])


def test_an_answer_without_a_call(llm):
    for response in all_ways(llm, "It is Dorn."):
        assert read(response) == ("It is Dorn.", [])
        assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
        with pytest.raises(RefragError, match="called no tool"):
            llm.get_tool_calls_from_response(response)


def test_what_cannot_be_read_stays_in_the_text(llm):
    line = "Hm. <tool_call>{oops}</tool_call>"
    for response in all_ways(llm, line):
        assert read(response) == ("Hm.\n<tool_call>{oops}</tool_call>", [])


def test_a_stream_shows_text_at_once_and_no_piece_of_a_call(llm):
    line = "See: " + call("search", query="Kesh")
    with scripted(llm.engine.model, line):
        responses = list(llm.stream_chat_with_tools(TOOLS, user_msg="Where?"))
    assert "".join(response.delta for response in responses) == "See:"
    assert len([response for response in responses if response.delta]) > 1
    with scripted(llm.engine.model, "<tool_call>{oops}"):
        responses = list(llm.stream_chat_with_tools(TOOLS, user_msg="Where?"))
    assert "".join(response.delta for response in responses) == responses[-1].message.content


def test_tools_calls_and_results_reach_the_template(llm, engine):
    engine.precompute([PASSAGE])
    history = [
        ChatMessage(role="system", content="Use tools."),
        ChatMessage(content="Where is Dorn?"),
        ChatMessage(
            role="assistant",
            blocks=[
                TextBlock(text="I look."),
                ToolCallBlock(
                    tool_call_id="abc", tool_name="search", tool_kwargs={"query": "Dorn"}
                ),
            ],
        ),
        ChatMessage(role="tool", content=wrap(PASSAGE), additional_kwargs={"tool_call_id": "abc"}),
    ]
    before = [message.model_dump() for message in history]
    llm.chat_with_tools(TOOLS, chat_history=history, max_new_tokens=2)
    assert [message.model_dump() for message in history] == before
    (asked,) = engine.calls
    counts = asked.answer.counts
    assert (counts.spans, counts.cache_hits, counts.cache_misses) == (1, 1, 0)
    assert counts.positions < counts.plain_positions
    read_by_model = str(engine.compress(asked.prompt, tools=asked.arguments["tools"]))
    for piece in ("Search the passages.", '{"query": "Dorn"}', "I look.", "<tool_response>"):
        assert piece in read_by_model
    assert asked.prompt[-1]["name"] == "search"


def test_older_shapes_of_calls_and_results_are_read():
    older = {"id": "x1", "function": {"name": "search", "arguments": '{"query": "Dorn"}'}}
    plain = plain_messages(
        [
            ChatMessage(role="assistant", additional_kwargs={"tool_calls": [older]}),
            ChatMessage(
                role=MessageRole.FUNCTION, content="r", additional_kwargs={"tool_call_id": "x1"}
            ),
            ChatMessage(
                role="tool", content="r", additional_kwargs={"tool_call_id": "y", "name": "other"}
            ),
        ]
    )
    assert plain[0]["tool_calls"] == [older]
    assert plain[1] == {"role": "tool", "content": "r", "tool_call_id": "x1", "name": "search"}
    assert plain[2]["name"] == "other"


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_a_round_of_every_family_of_templates(tokenizer, family):
    """Ids, arguments and results are of the shape that the strictest templates take."""
    written = {
        "hermes": call("add", a=1, b=2),
        "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}}]',
        "llama": '{"name": "add", "parameters": {"a": 1, "b": 2}}',
    }
    llm = RefragLLM(
        RecordedEngine(build_model(with_template(tokenizer, family))), max_new_tokens=200
    )
    with scripted(llm.engine.model, written[family], "Three."):
        first = llm.chat_with_tools(TOOLS, user_msg="1 + 2?")
        (selected,) = llm.get_tool_calls_from_response(first)
        result = ChatMessage(
            role="tool", content="3", additional_kwargs={"tool_call_id": selected.tool_id}
        )
        history = [ChatMessage(content="1 + 2?"), first.message, result]
        assert read(llm.chat_with_tools(TOOLS, chat_history=history)) == ("Three.", [])


def test_tool_choice_names_the_tools_that_are_offered(llm, engine):
    for choice, offered in ((None, 2), ("auto", 2), ("required", 2), ("add", 1), ("none", 0)):
        llm.chat_with_tools(TOOLS, user_msg="Where?", tool_choice=choice, max_new_tokens=1)
        assert len(engine.calls[-1].arguments.get("tools", ())) == offered
    named = {"type": "function", "function": {"name": "add"}}
    llm.chat_with_tools(TOOLS, user_msg="Where?", tool_choice=named, max_new_tokens=1)
    assert engine.calls[-1].arguments["tools"][0]["function"]["name"] == "add"
    with pytest.raises(InputError, match="search"):
        llm.chat_with_tools(TOOLS, user_msg="Where?", tool_choice="fly")


def test_predict_and_call_runs_the_tool(llm):
    with scripted(llm.engine.model, *[call("add", a=1, b=2)] * 2):
        assert llm.predict_and_call(TOOLS, user_msg="1 + 2?").response == "3"
        response = asyncio.run(llm.apredict_and_call(TOOLS, user_msg="1 + 2?"))
    assert response.response == "3"


class Town(BaseModel):
    """A town."""

    name: str
    people: int


def test_structured_output_by_a_tool_call(llm):
    template = PromptTemplate("Describe {town}.")
    with scripted(llm.engine.model, *[call("Town", name="Dorn", people=900)] * 3):
        town = llm.structured_predict(Town, template, town="Dorn")
        later = asyncio.run(llm.astructured_predict(Town, template, town="Dorn"))
        *_, last = llm.stream_structured_predict(Town, template, town="Dorn")
    assert town == later == Town(name="Dorn", people=900)
    assert (last.name, last.people) == ("Dorn", 900)
    with scripted(llm.engine.model, "It is a town."), pytest.raises(RefragError, match="no tool"):
        llm.structured_predict(Town, template, town="Dorn")
