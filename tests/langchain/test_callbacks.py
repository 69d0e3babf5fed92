"""Counts and timings of every answer reach LangChain's callbacks."""

import asyncio
import json

import pytest

pytest.importorskip("langchain_core")

from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.chains.retrieval import create_retrieval_chain
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler

from refrag_rag import compressible
from refrag_rag.langchain import ChatRefrag, RefragLLM
from tests.langchain.chains import PROMPT, Chain
from tests.sample_texts import OTHER, QUESTION, TEXTS

TEXT = f"{compressible(TEXTS['Titanic'])}\n{compressible(TEXTS['Nintendo'])}\n"
ASKED = [TEXT + QUESTION, TEXT + OTHER]
NUMBERS = {
    *("positions", "plain_positions", "positions_saved", "spans", "chunks", "expanded"),
    *("expanded_per_span", "cache_hits", "cache_misses", "new_tokens", "ttft_s", "total_s"),
}


class Handler(BaseCallbackHandler):
    """Keeps what an application sees of every answer."""

    def __init__(self):
        self.numbers = []

    def on_llm_end(self, response, **kwargs):
        for (generation,) in response.generations:
            message = getattr(generation, "message", None)
            seen = generation.generation_info if message is None else message.response_metadata
            self.numbers.append(seen)


async def read(stream):
    return [piece async for piece in stream]


def joined(pieces):
    whole = pieces[0]
    for piece in pieces[1:]:
        whole = whole + piece
    return [whole]


WAYS = {
    "invoke": lambda model, config: [model.invoke(ASKED[0], config)],
    "stream": lambda model, config: joined(list(model.stream(ASKED[0], config))),
    "batch": lambda model, config: model.batch(ASKED, config),
    "ainvoke": lambda model, config: [asyncio.run(model.ainvoke(ASKED[0], config))],
    "astream": lambda model, config: joined(asyncio.run(read(model.astream(ASKED[0], config)))),
    "abatch": lambda model, config: asyncio.run(model.abatch(ASKED, config)),
}


def check(numbers):
    assert set(numbers) >= NUMBERS
    assert json.loads(json.dumps(numbers)) == numbers
    assert numbers["positions_saved"] == numbers["plain_positions"] - numbers["positions"] > 0
    chosen = numbers["expanded_per_span"]
    assert (len(chosen), sum(chosen)) == (numbers["spans"], numbers["expanded"])
    assert numbers["spans"] == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_sees_the_numbers_of_the_message(engine, way):
    handler = Handler()
    answers = WAYS[way](ChatRefrag(engine, max_tokens=3), {"callbacks": [handler]})
    shown = [answer.response_metadata for answer in answers]
    assert sorted(map(json.dumps, handler.numbers)) == sorted(map(json.dumps, shown))
    for numbers in handler.numbers:
        check(numbers)


@pytest.mark.parametrize("way", WAYS)
def test_a_handler_sees_the_numbers_of_a_text_model(engine, way):
    handler = Handler()
    answers = WAYS[way](RefragLLM(engine, max_tokens=3), {"callbacks": [handler]})
    assert len(handler.numbers) == len(answers)
    for numbers in handler.numbers:
        check(numbers)


def test_a_model_that_streams_within_invoke_reports_once(engine):
    handler = Handler()
    model = ChatRefrag(engine, max_tokens=3, streaming=True)
    answer = model.invoke(ASKED[0], {"callbacks": [handler]})
    assert handler.numbers == [answer.response_metadata]
    check(handler.numbers[0])


def test_a_handler_given_to_a_chain_sees_its_answers(engine):
    chain = Chain(engine)
    handler, usage = Handler(), UsageMetadataCallbackHandler()
    answer = create_stuff_documents_chain(chain.chat, PROMPT)
    create_retrieval_chain(chain.retriever, answer).invoke(
        {"input": QUESTION}, {"callbacks": [handler, usage]}
    )
    (numbers,) = handler.numbers
    check(numbers)
    assert numbers["cache_hits"] == 2
    assert usage.usage_metadata[engine.model_name]["input_tokens"] == numbers["positions"]
