"""Answers from vLLM's engine objects in this process."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from types import ModuleType

import pytest

from refrag_rag import InputError, Refrag, ServingError
from refrag_rag.generation.threads import read_in_thread
from refrag_rag.serving import backend_of
from tests.conftest import TINY, build_model
from tests.serving import fake_vllm
from tests.serving.fake_vllm import FakeAsyncLLM, FakeLLM
from tests.serving.test_server import same

ENGINES = (FakeLLM, FakeAsyncLLM)


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    """What is imported of vLLM."""
    for name in ("vllm", "vllm.sampling_params"):
        module = ModuleType(name)
        module.SamplingParams = fake_vllm.SamplingParams
        module.RequestOutputKind = fake_vllm.RequestOutputKind
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("kind", ENGINES)
def test_answers_are_those_of_the_model_itself(kind, tiny_model, whole, prompts):
    remote = Refrag.load(TINY, backend=kind(tiny_model.decoder))
    for settings in ({"max_new_tokens": 12}, {"stop": ["h", " o"]}):
        expected = whole.generate_batch(prompts, **settings)
        same(remote.generate_batch(prompts, **settings), expected)
        same([[*remote.stream(one, **settings)][-1].answer for one in prompts], expected)
        with ThreadPoolExecutor(8) as pool:
            same(pool.map(partial(remote.generate, **settings), prompts), expected)


@pytest.mark.parametrize("kind", ENGINES)
def test_what_would_end_the_engine_does_not_reach_it(kind, tiny_model, tokenizer):
    with pytest.raises(InputError, match="enable_prompt_embeds=True"):
        Refrag.load(TINY, backend=kind(tiny_model.decoder, enabled=False))
    engine = kind(tiny_model.decoder, window=50)
    with pytest.raises(ServingError, match="48 wide, vLLM's model reads"):
        Refrag(build_model(tokenizer), backend=engine).generate("a")
    assert Refrag.load(TINY, backend=engine).context_window == 50


@pytest.mark.parametrize("kind", ENGINES)
def test_a_reader_that_goes_away_stops_the_engine(kind, tiny_model):
    engine = kind(tiny_model.decoder)
    remote = Refrag.load(TINY, backend=engine)
    stream = remote.stream("a", max_new_tokens=30)
    next(stream)
    stream.close()
    if kind is FakeLLM:
        assert engine.running == {}
        assert engine.aborted
    assert remote.generate("a", max_new_tokens=2).counts.new_tokens == 2


async def test_an_engine_of_this_loop_is_asked_from_other_threads(tiny_model, whole, prompts):
    engine = FakeAsyncLLM(tiny_model.decoder)
    engine.output_handler = asyncio.create_task(asyncio.sleep(60))
    remote = Refrag.load(TINY, backend=engine)
    deltas = [d async for d in read_in_thread(lambda: remote.stream(prompts[0]))]
    same([deltas[-1].answer], [whole.generate(prompts[0])])
    with pytest.raises(ServingError, match="wait for itself"):
        remote.generate(prompts[0])
    engine.output_handler.cancel()


def test_an_engine_of_a_loop_that_has_ended_is_refused(tiny_model):
    engine = FakeAsyncLLM(tiny_model.decoder)

    async def build():
        engine.output_handler = asyncio.create_task(asyncio.sleep(0))
        await engine.output_handler

    asyncio.run(build())
    with pytest.raises(ServingError, match="has ended"):
        Refrag.load(TINY, backend=engine).generate("a")


def test_an_engine_that_dies_is_one_clear_error(tiny_model, prompts):
    engine = FakeAsyncLLM(tiny_model.decoder, error=ValueError("EngineCore died"))
    with pytest.raises(ServingError, match=r"vLLM failed .*EngineCore died"):
        Refrag.load(TINY, backend=engine).generate_batch(prompts)


def test_a_backend_is_shared_and_stays_here(tiny_model):
    backend = backend_of(FakeLLM(tiny_model.decoder))
    assert backend_of(backend) is backend
    assert deepcopy({"backend": backend})["backend"] is backend
    with pytest.raises(InputError, match="cannot go to another process"):
        backend.__reduce__()
