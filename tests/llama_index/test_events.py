"""Every answer of the LLM as an event: sync, async and streamed, from calls and query engines."""

import asyncio
import json

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.mock import MockLLM
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import instrument_tags

from refrag_rag import InputError, Refrag, compressible
from refrag_rag.llama_index import RefragAnswerEvent, RefragLLM, collect_answers
from tests.llama_index.chains import WAYS, Chain, query
from tests.sample_texts import OTHER, QUESTION, TEXTS

PROMPT = f"{compressible(TEXTS['Titanic'])}\n{compressible(TEXTS['Nintendo'])}\n{QUESTION}"
CHAT = [ChatMessage(content=PROMPT)]


async def last_of(stream):
    return [piece async for piece in await stream][-1]


CALLS = {
    "complete": lambda llm: llm.complete(PROMPT),
    "chat": lambda llm: llm.chat(CHAT),
    "stream_complete": lambda llm: list(llm.stream_complete(PROMPT))[-1],
    "stream_chat": lambda llm: list(llm.stream_chat(CHAT))[-1],
    "acomplete": lambda llm: asyncio.run(llm.acomplete(PROMPT)),
    "achat": lambda llm: asyncio.run(llm.achat(CHAT)),
    "astream_complete": lambda llm: asyncio.run(last_of(llm.astream_complete(PROMPT))),
    "astream_chat": lambda llm: asyncio.run(last_of(llm.astream_chat(CHAT))),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_sends_one_event_with_the_numbers_of_its_response(engine, call):
    with collect_answers() as events:
        response = CALLS[call](RefragLLM(engine, max_new_tokens=3))
    (event,) = events
    numbers = {name: value for name, value in response.raw.items() if name != "usage"}
    assert event.metadata == numbers == response.additional_kwargs
    assert event.text == (response.text if "complete" in call else response.message.content)
    assert event.metadata["positions_saved"] > 0
    chosen = event.metadata["expanded_per_span"]
    assert (len(chosen), sum(chosen)) == (2, event.metadata["expanded"])
    assert json.loads(json.dumps(event.metadata)) == event.metadata


def test_events_name_themselves_and_dump_to_json_without_the_answer(engine):
    with collect_answers() as events:
        answer = RefragLLM(engine, max_new_tokens=3).complete(PROMPT)
    dump = events[0].model_dump(mode="json")
    assert dump["class_name"] == "RefragAnswerEvent"
    assert dump["metadata"] == events[0].metadata
    assert set(json.loads(json.dumps(dump))) == {
        *("class_name", "id_", "metadata", "span_id", "tags", "text", "timestamp"),
    }
    assert events[0].answer.text == answer.text


@pytest.mark.parametrize("way", WAYS)
def test_answers_of_a_query_engine_are_collected(model, way):
    chain = Chain(Refrag(model))
    with collect_answers() as events, instrument_tags({"request": 7}):
        text, response = query(chain.query_engine(streaming="stream" in way), way)
    (event,) = events
    assert event.text.strip() == text.strip()
    assert event.metadata["spans"] == len(response.source_nodes) == 2
    assert event.metadata["cache_hits"] == 2
    assert event.tags == {"request": 7}


def test_every_step_of_an_answer_is_collected(model):
    with collect_answers() as events:
        Chain(Refrag(model)).query_engine("refine").query(QUESTION)
    assert [event.metadata["spans"] for event in events] == [1, 1]


def test_collectors_are_independent_and_end(engine):
    llm = RefragLLM(engine, max_new_tokens=2)
    before = list(get_dispatcher().event_handlers)
    with collect_answers() as outer:
        with collect_answers() as inner:
            llm.complete(QUESTION)
        llm.complete(OTHER)
        MockLLM().complete(QUESTION)
    llm.complete(QUESTION)
    assert (len(inner), len(outer)) == (1, 2)
    assert get_dispatcher().event_handlers == before


def test_a_failed_call_and_an_abandoned_stream_send_nothing(engine):
    llm = RefragLLM(engine, max_new_tokens=8)
    with collect_answers() as events:
        stream = llm.stream_complete(PROMPT)
        next(stream)
        stream.close()
        with pytest.raises(InputError):
            llm.complete(PROMPT, p=7)
    assert events == []


def test_own_handlers_see_the_event(engine):
    seen = []

    class Mine(BaseEventHandler):
        @classmethod
        def class_name(cls):
            return "Mine"

        def handle(self, event, **kwargs):
            seen.append(event)

    handler = Mine()
    get_dispatcher().add_event_handler(handler)
    try:
        RefragLLM(engine, max_new_tokens=2).chat(CHAT)
    finally:
        get_dispatcher().event_handlers.remove(handler)
    (event,) = [event for event in seen if isinstance(event, RefragAnswerEvent)]
    names = [type(one).__name__ for one in seen]
    assert names.index("LLMChatStartEvent") < names.index("RefragAnswerEvent")
    assert event.span_id == seen[names.index("LLMChatStartEvent")].span_id
