"""Tools of ChatRefrag: bound, called, streamed, answered; structured output; by script."""

import asyncio
import json
from typing import TypedDict

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field, ValidationError

from refrag_rag import Refrag
from refrag_rag.errors import InputError
from refrag_rag.langchain import ChatRefrag, RefragLLM
from refrag_rag.spans import wrap
from tests.conftest import build_model
from tests.langchain.chains import collect
from tests.scripted import scripted
from tests.tool_templates import TEMPLATES, with_template

QUESTION = [HumanMessage("How many people live in Dorn?")]
PASSAGE = "Kesh exports tin. Its capital is Dorn, a town of 900 people by the river Ona."
MODE = {"framework": "LangChain", "result": "works"}


@tool
def search(query: str, k: int = 3) -> str:
    """Searches passages."""
    return f"{k} passages about {query}"


@tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


CALLS = [("search", {"query": "Dorn [[refrag]]x[[/refrag]]"}), ("add", {"a": 1, "b": 2})]


def written(style, calls):
    """Calls as models of a family write them."""
    if style == "hermes":
        texts = [json.dumps({"name": name, "arguments": args}) for name, args in calls]
        return "\n".join(f"<tool_call>\n{text}\n</tool_call>" for text in texts)
    if style == "mistral":
        return "[TOOL_CALLS]" + json.dumps([{"name": n, "arguments": a} for n, a in calls])
    return "; ".join(json.dumps({"name": name, "parameters": args}) for name, args in calls)


@pytest.fixture(params=sorted(TEMPLATES))
def style(request):
    return request.param


@pytest.fixture
def engine(tokenizer, style):
    return Refrag(build_model(with_template(tokenizer, style)), p=0.0)


@pytest.fixture
def hermes(tokenizer):
    return Refrag(build_model(with_template(tokenizer, "hermes")), p=0.0)


def bound(engine, **settings):
    return ChatRefrag(engine, max_tokens=400).bind_tools([search, add], **settings)


def called(message):
    return [(call["name"], call["args"]) for call in message.tool_calls]


def summed(chunks):
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


@pytest.mark.mode(**MODE, name="bind_tools", note="chat templates with tools; checked by script")
def test_calls_are_found_in_every_family(engine, style):
    with scripted(engine.model, written(style, CALLS), "None needed.") as script:
        message = bound(engine).invoke(QUESTION)
        plain = bound(engine).invoke(QUESTION)
    assert called(message) == CALLS
    assert (message.content, message.invalid_tool_calls) == ("", [])
    assert len({call["id"] for call in message.tool_calls}) == 2
    assert (plain.content, plain.tool_calls) == ("None needed.", [])
    read = "".join(segment.text for segment in script.prompts[0].segments)
    assert "Searches passages." in read
    assert "Adds." in read
    assert message.usage_metadata["input_tokens"] == script.positions[0]


def test_streams_hold_calls_back_and_give_them_whole(engine, style):
    text = written(style, CALLS)
    before = "" if style == "llama" else "Let me look. "
    model = bound(engine)
    with scripted(engine.model, *[before + text] * 3):
        single = model.invoke(QUESTION)
        chunks = list(model.stream(QUESTION))
        async_chunks = collect(model.astream(QUESTION))
    for parts in (chunks, async_chunks):
        total = summed(parts)
        assert called(total) == called(single) == CALLS
        assert total.content == single.content == before.rstrip()
        assert total.usage_metadata == single.usage_metadata
        with_calls = [part for part in parts if part.tool_call_chunks]
        assert len(with_calls) == 1
        assert [part["index"] for part in with_calls[0].tool_call_chunks] == [0, 1]
        assert with_calls[0] is parts[-1] or parts[-1].content == ""
    assert (len(chunks) > 2) == bool(before)  # text before a call is not held back


@pytest.mark.parametrize(
    "text", ['<tool_call>{"name": "add", "arguments": {"a": 1', "<tool_call>x"]
)
def test_a_broken_call_is_an_invalid_one(hermes, text):
    model = bound(hermes)
    with scripted(hermes.model, text, text) as script:
        single = model.invoke(QUESTION)
        total = summed(list(model.stream(QUESTION)))
    for message in (single, total):
        assert message.tool_calls == []
        assert [call["args"] for call in message.invalid_tool_calls] == [text]
    assert "Error" in single.invalid_tool_calls[0]["error"]
    with scripted(hermes.model, "Sorry.") as script:
        model.invoke([*QUESTION, single, HumanMessage("That was no call.")])
    assert text in "".join(segment.text for segment in script.prompts[0].segments)


def test_without_tools_nothing_is_a_call(hermes):
    text = written("hermes", CALLS)
    with scripted(hermes.model, text, text):
        message = ChatRefrag(hermes, max_tokens=400).invoke(QUESTION)
        streamed = summed(list(ChatRefrag(hermes, max_tokens=400).stream(QUESTION)))
    assert message.content == streamed.content == text
    assert message.tool_calls == streamed.tool_calls == []


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        (None, {"search", "add"}),
        ("auto", {"search", "add"}),
        ("any", {"search", "add"}),
        (True, {"search", "add"}),
        ("none", set()),
        ("add", {"add"}),
        ({"type": "function", "function": {"name": "search"}}, {"search"}),
    ],
)
def test_a_choice_decides_what_is_offered(hermes, choice, offered):
    with scripted(hermes.model, "") as script:
        bound(hermes, tool_choice=choice).invoke(QUESTION)
    read = "".join(segment.text for segment in script.prompts[0].segments)
    assert {name for name in ("search", "add") if f'"name": "{name}"' in read} == offered


@pytest.mark.parametrize("choice", ["sub", {"function": "add"}, {"type": "function"}])
def test_a_choice_of_no_tool_is_refused(hermes, choice):
    with pytest.raises(InputError, match="tool_choice"):
        bound(hermes, tool_choice=choice)


def test_calls_and_results_reach_the_prompt(engine, style):
    engine.precompute([PASSAGE])
    with scripted(engine.model, written(style, CALLS[:1]), "900.") as script:
        model = bound(engine)
        asked = model.invoke(QUESTION)
        result = ToolMessage(wrap(PASSAGE), tool_call_id=asked.tool_calls[0]["id"], name="search")
        answer = model.invoke([SystemMessage("Be brief."), *QUESTION, asked, result])
    counts = answer.response_metadata
    assert answer.content == "900."
    assert (counts["spans"], counts["cache_hits"]) == (1, 1)
    assert counts["positions"] < counts["plain_positions"]
    read = "".join(getattr(s, "text", "") for s in script.prompts[1].segments)
    assert '{"query": "Dorn x"}' in read  # arguments as an object, markers gone
    assert PASSAGE not in read


def test_calls_of_other_providers_are_understood(hermes):
    asked = AIMessage(
        [{"type": "text", "text": "I look."}, {"type": "tool_use", "id": "1", "name": "add"}],
        tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "1"}],
    )
    with scripted(hermes.model, "3") as script:
        bound(hermes).invoke([*QUESTION, asked, ToolMessage("3", tool_call_id="1")])
    read = "".join(segment.text for segment in script.prompts[0].segments)
    assert 'I look.<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}' in read


def test_a_template_without_tools_says_so(model):
    plain = Refrag(model)
    with pytest.raises(InputError, match="does not mention tools"):
        bound(plain).invoke(QUESTION)
    with pytest.raises(InputError, match="does not mention tools"):
        asyncio.run(bound(plain).ainvoke(QUESTION))
    asked = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}])
    with pytest.raises(InputError, match="does not mention tool_calls"):
        ChatRefrag(plain).invoke([*QUESTION, asked])
    with pytest.raises(InputError, match="Unknown arguments"):
        RefragLLM(plain).invoke("x", tools=[convert_to_openai_tool(add)])


def test_a_model_without_a_template_says_so(tokenizer):
    copy = with_template(tokenizer, "hermes")
    copy.chat_template = None
    text_model = Refrag(build_model(copy))
    asked = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}])
    with pytest.raises(InputError, match="no chat template"):
        ChatRefrag(text_model).invoke([*QUESTION, asked])
    with pytest.raises(InputError, match="Pass messages"):
        bound(text_model).invoke(QUESTION)


# Structured output


class Town(BaseModel):
    """A town."""

    name: str
    people: int = Field(ge=0)


class TownDict(TypedDict):
    """A town."""

    name: str
    people: int


DORN = {"name": "Dorn", "people": 900}


@pytest.mark.mode(
    **MODE,
    name="with_structured_output",
    note="as a tool where the chat template takes tools, else json_mode; nothing is forced",
)
@pytest.mark.parametrize("schema", [Town, TownDict, Town.model_json_schema()])
def test_structured_output_as_a_tool(engine, style, schema):
    name = convert_to_openai_tool(schema)["function"]["name"]
    structured = ChatRefrag(engine, max_tokens=400).with_structured_output(schema)
    with scripted(engine.model, *[written(style, [(name, DORN)])] * 3):
        found = structured.invoke(QUESTION)
        awaited = asyncio.run(structured.ainvoke(QUESTION))
        *_, streamed = structured.stream(QUESTION)
    for one in (found, awaited, streamed):
        assert (one.model_dump() if schema is Town else one) == DORN


def test_a_structured_answer_that_is_none(hermes):
    chat = ChatRefrag(hermes, max_tokens=400)
    bad = written("hermes", [("Town", {"name": "Dorn", "people": -1})])
    with scripted(hermes.model, "Dorn.", bad, bad):
        assert chat.with_structured_output(Town).invoke(QUESTION) is None
        with pytest.raises(ValidationError):
            chat.with_structured_output(Town).invoke(QUESTION)
        whole = chat.with_structured_output(Town, include_raw=True).invoke(QUESTION)
    assert whole["parsed"] is None
    assert isinstance(whole["parsing_error"], ValidationError)
    assert isinstance(whole["raw"], AIMessage)


@pytest.mark.parametrize("schema", [Town, TownDict])
def test_json_mode_needs_no_tools(model, schema):
    plain = Refrag(model)
    chat = ChatRefrag(plain, max_tokens=400)
    structured = chat.with_structured_output(schema, method="json_mode")
    raw = chat.with_structured_output(schema, method="json_mode", include_raw=True)
    with scripted(plain.model, json.dumps(DORN), "no JSON", f"```json\n{json.dumps(DORN)}\n```"):
        found = structured.invoke(QUESTION)
        failed = raw.invoke(QUESTION)
        fenced = raw.invoke(QUESTION)
    for one in (found, fenced["parsed"]):
        assert (one.model_dump() if schema is Town else one) == DORN
    assert failed["parsed"] is None
    assert failed["parsing_error"] is not None
    assert failed["raw"].content == "no JSON"


def test_other_methods_are_refused(model):
    with pytest.raises(InputError, match="json_schema"):
        ChatRefrag(Refrag(model)).with_structured_output(Town, method="json_schema")


def test_chunks_are_message_chunks(hermes):
    with scripted(hermes.model, written("hermes", CALLS)):
        chunks = list(bound(hermes).stream(QUESTION))
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1
