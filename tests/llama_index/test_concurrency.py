"""Many questions at once: answers as one by one, streams that are left, errors that arrive."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from llama_index.core.base.llms.types import ChatMessage

from refrag_rag.errors import PromptTooLongError
from refrag_rag.llama_index import RefragLLM
from refrag_rag.spans import wrap
from refrag_rag.store import open_store
from tests.llama_index.chains import Chain
from tests.recorded import RecordedEngine
from tests.sample_texts import TEXTS

MANY = 32
QUESTIONS = [
    f"{i}. What of {name}?" for i, name in zip(range(MANY), list(TEXTS) * MANY, strict=False)
]
PASSAGES = "\n".join(map(wrap, TEXTS.values()))


@pytest.fixture(params=["indexed", "on disk", "misses"])
def busy(request, model, tmp_path):
    """A chain over the small random model, its answers with nothing else going on, and its twin.

    The twin has the same vectors, on disk or in memory, or has to encode them in all calls at once.
    """
    first = Chain(RecordedEngine(model, p=0.2), max_new_tokens=6)
    store = open_store(tmp_path / "store") if request.param == "on disk" else None
    engine = RecordedEngine(model, p=0.2, store=store)
    if request.param != "misses":
        engine.precompute(TEXTS.values())
    chain = Chain(first.engine, max_new_tokens=6)
    chain.engine, chain.llm = engine, RefragLLM(engine, max_new_tokens=6)
    chain.common["llm"] = chain.llm
    return chain, alone(first)


def alone(chain):
    """What every question gets when it is the only one."""
    return [WAYS[i % 4](chain, question) for i, question in enumerate(QUESTIONS)]


def by_query_engine(chain, question):
    return str(chain.query_engine().query(question))


def by_stream(chain, question):
    response = chain.query_engine(streaming=True).query(question)
    return "".join(response.response_gen)


def by_llm(chain, question):
    return chain.llm.complete(f"{PASSAGES}\n{question}").text


def by_llm_stream(chain, question):
    messages = [ChatMessage(content=f"{PASSAGES}\n{question}")]
    return "".join(piece.delta for piece in chain.llm.stream_chat(messages))


WAYS = [by_query_engine, by_stream, by_llm, by_llm_stream]


async def later(chain, place, question):
    """The same four ways, from an event loop."""
    if place == 0:
        return str(await chain.query_engine().aquery(question))
    if place == 1:
        response = await chain.query_engine(streaming=True).aquery(question)
        return "".join([piece async for piece in response.async_response_gen()])
    if place == 2:
        return (await chain.llm.acomplete(f"{PASSAGES}\n{question}")).text
    stream = await chain.llm.astream_chat([ChatMessage(content=f"{PASSAGES}\n{question}")])
    return "".join([piece.delta async for piece in stream])


def test_many_threads_get_the_answers_of_one(busy):
    chain, expected = busy
    barrier = threading.Barrier(MANY)

    def ask(place):
        barrier.wait(timeout=60)
        return WAYS[place % 4](chain, QUESTIONS[place])

    with ThreadPoolExecutor(MANY) as pool:
        found = list(pool.map(ask, range(MANY), timeout=300))
    assert found == expected
    assert len(set(expected)) > MANY // 4  # they really differ


def test_many_tasks_get_the_answers_of_one(busy):
    chain, expected = busy

    async def ask():
        asked = [later(chain, place % 4, question) for place, question in enumerate(QUESTIONS)]
        return await asyncio.wait_for(asyncio.gather(*asked), timeout=300)

    assert asyncio.run(ask()) == expected


# --- streams that are left -----------------------------------------------------------------


@pytest.fixture
def endless(model):
    """A chain whose answers take a while."""
    return Chain(RecordedEngine(model, p=0.2), max_new_tokens=1000)


@contextmanager
def watched(model):
    """Count the decoder's steps, and keep weak references to its caches."""
    steps, caches = [], []

    def look(_decoder, _args, _inputs, output):
        steps.append(None)
        caches.append(weakref.ref(output.past_key_values))

    hook = model.decoder.register_forward_hook(look, with_kwargs=True)
    try:
        yield steps, caches
    finally:
        hook.remove()


def wait_for(condition):
    """Poll for at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        gc.collect()
        time.sleep(0.02)


def assert_freed(steps, caches, *, limit):
    wait_for(lambda: all(cache() is None for cache in caches))
    count = len(steps)
    time.sleep(0.1)
    assert len(steps) == count < limit


def test_a_stream_that_is_closed_frees_its_memory(endless, model):
    with watched(model) as (steps, caches):
        stream = endless.llm.stream_chat([ChatMessage(content=PASSAGES)])
        next(stream)
        stream.close()
        del stream
        response = endless.query_engine(streaming=True).query("Who?")
        next(response.response_gen)
        del response
        assert_freed(steps, caches, limit=20)


def test_tasks_that_are_cancelled_free_threads_and_memory(endless, model):
    async def cancel_all():
        tasks = [asyncio.create_task(later(endless, place % 4, "Who?")) for place in range(8)]
        while len(steps) < 20:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        ends = asyncio.gather(*tasks, return_exceptions=True)
        return await asyncio.wait_for(ends, timeout=120)

    with watched(model) as (steps, caches):
        ends = asyncio.run(cancel_all())
        assert {type(end) for end in ends} == {asyncio.CancelledError}
        assert_freed(steps, caches, limit=2000)  # 8,000 if nothing stopped them
    assert "".join(r.delta for r in endless.llm.stream_complete("Who?", max_new_tokens=2))


# --- errors --------------------------------------------------------------------------------


class BrokenError(Exception):
    pass


@contextmanager
def breaking(model, after):
    """Let the decoder fail in a later step."""
    count = 0

    def fail(*_):
        nonlocal count
        count += 1
        if count > after:
            raise BrokenError("out of memory")

    hook = model.decoder.register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("after", [0, 3])
def test_an_error_in_generation_reaches_the_caller(endless, model, place, after):
    for ask in (
        lambda: WAYS[place](endless, "Who?"),
        lambda: asyncio.run(later(endless, place, "Who?")),
    ):
        with breaking(model, after), pytest.raises(BrokenError, match="out of memory"):
            ask()
        assert len(endless.engine.calls) == 0


@pytest.mark.parametrize("name", ["context", "condense_plus_context", "condense_question"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_generation_reaches_who_chats(endless, model, name):
    """LlamaIndex's own thread that fills the memory raises it as well."""
    chat = endless.index.as_chat_engine(
        chat_mode=name, memory=endless.memory(), **endless.common, streaming=False
    )
    with breaking(model, 2), pytest.raises(BrokenError):
        chat.chat("Who?")
    with breaking(model, 2), pytest.raises(BrokenError):
        "".join(chat.stream_chat("Who?").response_gen)


def test_an_error_is_only_the_one_caller_s(endless):
    def ask(place):
        question = "Who? " * (3000 if place == 3 else 1)
        return endless.llm.complete(f"{PASSAGES}\n{question}", max_new_tokens=4).text

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, place) for place in range(8)]
        failed = [future.exception(timeout=120) for future in asked]
    assert isinstance(failed.pop(3), PromptTooLongError)
    assert failed == [None] * 7
    assert len({future.result() for future in asked if not future.exception()}) == 1
