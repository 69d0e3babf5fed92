"""Every chat mode, in every way of chatting, with the embedded model."""

import asyncio

import pytest
from llama_index.core.chat_engine.types import ChatMode

from refrag_rag.spans import CLOSE, OPEN
from tests.llama_index.chains import WAYS, check_answers, check_sources, check_vectors
from tests.sample_texts import OTHER, QUESTION

TESTED = ("context", "condense_plus_context", "condense_question", "best")


def mode(name, result="works", note=""):
    return pytest.mark.mode("LlamaIndex", f"chat mode `{name}`", result, note)


def one(name, note=""):
    return pytest.param(name, id=name, marks=mode(name, note=note))


def chat(engine, way, message):
    """Chat in one of WAYS."""
    if way == "sync":
        response = engine.chat(message)
        return response.response, response
    if way == "stream":
        response = engine.stream_chat(message)
        return "".join(response.response_gen), response

    async def ask():
        if way == "async":
            response = await engine.achat(message)
            return response.response, response
        response = await engine.astream_chat(message)
        return "".join([piece async for piece in response.async_response_gen()]), response

    return asyncio.run(ask())


def chat_engine(chain, name, **settings):
    return chain.index.as_chat_engine(
        chat_mode=name, memory=chain.memory(), **{**chain.common, **settings}
    )


def test_the_installed_modes_are_all_in_the_table():
    gone = {"react", "openai"}  # as_chat_engine refuses them
    assert {mode.value for mode in ChatMode} == {*TESTED, "simple"} | gone


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [
        one("context"),
        one("condense_plus_context"),
        one("condense_question", "the condense step reads the history as text"),
        one("best", "is `condense_plus_context`"),
    ],
)
def test_chat_over_two_turns(chain, recorded, name, way):
    engine = chat_engine(chain, name, streaming="stream" in way and name == "condense_question")
    first, response = chat(engine, way, QUESTION)
    assert first.strip() == recorded.asked[-1].answer.text.strip()
    if name != "condense_question" or "stream" not in way:  # there the sources come at the end
        check_sources(response, chain.index)
    second, _ = chat(engine, way, OTHER)
    assert second.strip() == recorded.asked[-1].answer.text.strip()
    check_vectors(recorded, hits=4)
    history = [message.content for message in engine.chat_history]
    assert history[0::2] == [QUESTION, OTHER]
    assert not any(OPEN[:8] in text or CLOSE in text for text in history)


@pytest.mark.parametrize("name", [one("context"), one("condense_plus_context")])
def test_a_later_turn_reads_no_passages_of_earlier_ones(chain, recorded, name):
    """Memory keeps what was said: positions grow by two short turns, not by passages."""
    engine = chat_engine(chain, name)
    for _ in range(3):
        engine.chat(QUESTION)
    assert [call.answer.counts.spans for call in recorded.asked] == [2, 2, 2]
    positions = [call.answer.counts.positions for call in recorded.asked]
    assert positions[2] - positions[1] < 40


@mode("simple", "not applicable", "chats without passages")
def test_simple_chat_has_no_passages(chain, recorded):
    engine = chat_engine(chain, "simple")
    text, response = chat(engine, "sync", QUESTION)
    check_answers(recorded)
    assert recorded.asked == []
    assert text == recorded.calls[0].answer.text
    assert response.source_nodes == []
