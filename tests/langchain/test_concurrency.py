"""Many callers at once, streams that are left, errors: through ChatRefrag on a real small model."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from refrag_rag import Refrag
from refrag_rag.errors import PromptTooLongError
from refrag_rag.langchain import ChatRefrag
from refrag_rag.spans import wrap
from tests.sample_texts import TEXTS

CALLERS, LIMIT_S = 32, 120
LONG = [HumanMessage("word " * 5000)]


@pytest.fixture
def chat(engine):
    return ChatRefrag(engine, max_tokens=8)


def asked(number):
    """A prompt for each caller: other passages, in another order."""
    texts = [f"{text} Copy {number % 5}." for text in TEXTS.values()]
    turned = texts[number % 3 :] + texts[: number % 3]
    context = "\n".join(wrap(text) for text in turned[: 1 + number % 3])
    return [SystemMessage(context), HumanMessage(f"Question {number}?")]


def counts(message):
    return {name: message.response_metadata[name] for name in ("positions", "spans", "new_tokens")}


def summed(chunks):
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return total


@pytest.fixture
def alone(chat):
    """Every caller's answer, asked one after the other."""
    return [chat.invoke(asked(number)) for number in range(CALLERS)]


def same(answers, alone):
    assert [answer.content for answer in answers] == [one.content for one in alone]
    assert [counts(answer) for answer in answers] == [counts(one) for one in alone]
    assert len({one.content for one in alone}) > CALLERS / 2


def test_threads_get_their_own_answers(model, alone):
    fresh = ChatRefrag(Refrag(model), max_tokens=8)  # all callers miss the store at once
    start = threading.Barrier(CALLERS)

    def ask(number):
        start.wait(LIMIT_S)
        if number % 2:
            return summed(list(fresh.stream(asked(number))))
        return fresh.invoke(asked(number))

    with ThreadPoolExecutor(CALLERS) as pool:
        same(list(pool.map(ask, range(CALLERS), timeout=LIMIT_S)), alone)


async def test_tasks_get_their_own_answers(model, alone):
    fresh = ChatRefrag(Refrag(model), max_tokens=8)

    async def ask(number):
        if number % 2:
            return summed([chunk async for chunk in fresh.astream(asked(number))])
        return await fresh.ainvoke(asked(number))

    tasks = asyncio.gather(*map(ask, range(CALLERS)))
    same(await asyncio.wait_for(tasks, LIMIT_S), alone)


def test_batches_get_their_own_answers(chat, alone):
    prompts = [asked(number) for number in range(CALLERS)]
    same(chat.batch(prompts), alone)
    same(asyncio.run(chat.abatch(prompts, config={"max_concurrency": 4})), alone)


class Steps:
    """Counts the forwards of a decoder that never ends its answer, and fails at a given one."""

    def __init__(self, end, fail_at=None):
        self.count, self.caches, self._end, self._fail_at = 0, [], end, fail_at

    def __call__(self, _decoder, _args, output):
        self.count += 1
        output.logits[..., self._end] = -1e4
        self.caches.append(weakref.ref(output.past_key_values))
        if self._fail_at is not None and self.count >= self._fail_at:
            raise RuntimeError(f"step {self.count} fails")

    def freed(self):
        """Wait until no cache is held any more."""
        for _ in range(200):
            gc.collect()
            if not any(cache() for cache in self.caches):
                return True
            time.sleep(0.05)
        return False


@contextmanager
def steps(engine, fail_at=None):
    counter = Steps(engine.model.tokenizer.eos_token_id, fail_at)
    hook = engine.model.decoder.register_forward_hook(counter)
    try:
        yield counter
    finally:
        hook.remove()


MANY = 1500  # tokens, and as many steps, if nobody stops


def test_a_stream_that_is_left_stops_and_frees_its_cache(engine):
    chat = ChatRefrag(engine, max_tokens=MANY)
    with steps(engine) as taken:
        for chunk in chat.stream(asked(0)):
            del chunk
            break
        assert taken.freed()
    assert taken.count < MANY / 4


@pytest.mark.parametrize("leave", ["cancel", "break", "timeout"])
def test_an_async_stream_that_is_left_stops_its_thread(engine, leave):
    chat = ChatRefrag(engine, max_tokens=MANY)

    async def read(started):
        stream = chat.astream(asked(0))
        async for _ in stream:
            started.set()
            if leave == "break":
                await stream.aclose()
                return

    async def leave_it():
        started = asyncio.Event()
        if leave == "timeout":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(read(started), 0.2)
            return
        task = asyncio.create_task(read(started))
        await started.wait()
        if leave == "cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.gather(task, return_exceptions=True)

    with steps(engine) as taken:
        asyncio.run(leave_it())  # waits for its threads in the end
        assert taken.freed()
    assert taken.count < MANY / 2


def test_an_answer_that_is_no_longer_awaited_stops_its_thread(engine):
    chat = ChatRefrag(engine, max_tokens=MANY)

    async def ask():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(chat.ainvoke(asked(0)), 0.2)

    with steps(engine) as taken:
        asyncio.run(ask())
        assert taken.freed()
    assert taken.count < MANY / 2


def test_callers_go_on_while_others_leave(chat, alone):
    endless = chat.model_copy(update={"max_tokens": MANY})

    async def left(number):
        stream = endless.astream(asked(number))
        async for _ in stream:
            break
        await stream.aclose()

    async def all_at_once():
        kept = asyncio.gather(*(chat.ainvoke(asked(number)) for number in range(8)))
        await asyncio.gather(*map(left, range(8, 16)))
        return await kept

    same_content = [one.content for one in alone[:8]]
    assert [one.content for one in asyncio.run(all_at_once())] == same_content


async def drain(stream):
    return [item async for item in stream]


ASKS = {
    "invoke": lambda chat: chat.invoke(asked(0)),
    "stream": lambda chat: list(chat.stream(asked(0))),
    "batch": lambda chat: chat.batch([asked(0)]),
    "ainvoke": lambda chat: asyncio.run(chat.ainvoke(asked(0))),
    "astream": lambda chat: asyncio.run(drain(chat.astream(asked(0)))),
    "abatch": lambda chat: asyncio.run(chat.abatch([asked(0)])),
}


@pytest.mark.parametrize("fail_at", [1, 4])
@pytest.mark.parametrize("way", ASKS)
def test_an_error_in_the_decoder_reaches_the_caller_at_once(engine, way, fail_at):
    chat = ChatRefrag(engine, max_tokens=200)
    with (
        steps(engine, fail_at) as taken,
        pytest.raises(RuntimeError, match=f"step {fail_at} fails"),
    ):
        ASKS[way](chat)
    assert taken.count == fail_at
    assert chat.invoke(asked(0), max_tokens=4).content is not None  # nothing stays locked


def test_one_bad_prompt_of_a_batch_leaves_the_others(chat, alone):
    prompts = [asked(0), LONG, asked(2)]
    for found in (
        chat.batch(prompts, return_exceptions=True),
        asyncio.run(chat.abatch(prompts, return_exceptions=True)),
    ):
        assert isinstance(found[1], PromptTooLongError)
        assert [found[0].content, found[2].content] == [alone[0].content, alone[2].content]
