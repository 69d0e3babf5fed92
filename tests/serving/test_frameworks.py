"""A backend behind the components of both frameworks."""

import pickle

import pytest

pytest.importorskip("llama_index.core")
pytest.importorskip("langchain_core")

from langchain_core.messages import HumanMessage
from llama_index.core import SummaryIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import TextNode

from refrag_rag import InputError, ServingError
from refrag_rag.langchain import ChatRefrag
from refrag_rag.langchain import RefragLLM as LangChainLLM
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor
from refrag_rag.serving import Server
from tests.conftest import TINY
from tests.sample_texts import QUESTION, TEXTS
from tests.serving.conftest import CONTEXT
from tests.serving.fake_vllm import served

TEXT = f"{CONTEXT}\n{QUESTION}"
MESSAGES = [ChatMessage(content=TEXT)]


async def collected(stream):
    return [one async for one in stream]


async def test_llama_index_sync_async_and_streams(server, whole):
    llm = RefragLLM(model_name=TINY, backend=server.url, max_new_tokens=12)
    expected = whole.generate([{"role": "user", "content": TEXT}], max_new_tokens=12).text
    assert llm.complete(TEXT).text == expected
    assert [*llm.stream_complete(TEXT)][-1].text == expected
    assert (await llm.acomplete(TEXT)).text == expected
    assert (await collected(await llm.astream_complete(TEXT)))[-1].text == expected
    assert llm.chat(MESSAGES).message.content == expected
    assert [*llm.stream_chat(MESSAGES)][-1].message.content == expected
    assert (await llm.achat(MESSAGES)).message.content == expected
    assert (await collected(await llm.astream_chat(MESSAGES)))[-1].message.content == expected
    assert len(server.bodies) == 8
    assert llm.metadata.context_window == 2048


async def test_langchain_sync_async_batches_and_streams(tiny_model, whole):
    expected = whole.generate([{"role": "user", "content": TEXT}], max_new_tokens=12).text
    with served(tiny_model.decoder, "", "") as servers:
        urls = [one.url for one in servers]
        for made in (ChatRefrag, LangChainLLM):
            llm = made(model_name=TINY, backend=urls, max_tokens=12)

            def text(answer):
                return getattr(answer, "content", answer)

            assert text(llm.invoke(TEXT)) == expected
            assert text(await llm.ainvoke(TEXT)) == expected
            assert [text(one) for one in llm.batch([TEXT] * 3)] == [expected] * 3
            assert [text(one) for one in await llm.abatch([TEXT] * 3)] == [expected] * 3
            assert "".join(text(one) for one in llm.stream(TEXT)) == expected
            assert "".join(map(text, await collected(llm.astream(TEXT)))) == expected
        assert [len(one.bodies) for one in servers] == [10, 10]


async def test_errors_reach_the_user_through_both_frameworks(tiny_model):
    with served(tiny_model.decoder, "dies") as (server,):
        llm = RefragLLM(model_name=TINY, backend=server.url)
        chat = ChatRefrag(model_name=TINY, backend=server.url)
        index = SummaryIndex([TextNode(text=text) for text in TEXTS.values()])
        marks = RefragPostprocessor(llm.engine)
        query_engine = index.as_query_engine(llm=llm, node_postprocessors=[marks])
        for ask in (llm.complete, chat.invoke, query_engine.query):
            with pytest.raises(ServingError, match="broke off"):
                ask(QUESTION)
        for ask in (llm.acomplete, chat.ainvoke, query_engine.aquery):
            with pytest.raises(ServingError, match="broke off"):
                await ask(QUESTION)
        assert chat.engine is llm.engine  # equal settings share one


def test_a_component_goes_to_another_process_with_its_urls(server):
    for made in (RefragLLM, ChatRefrag):
        llm = pickle.loads(pickle.dumps(made(model_name=TINY, backend=[server.url])))
        assert llm.load_kwargs == {"backend": [server.url]}
        own = made(model_name=TINY, backend=Server(server.url, api_key="secret"))
        assert "secret" not in own.model_dump_json()
        with pytest.raises(InputError, match="cannot go to another process"):
            pickle.dumps(own)


def test_a_backend_beside_an_engine_is_refused(whole, server):
    for made in (RefragLLM, ChatRefrag):
        with pytest.raises(InputError, match="together with backend"):
            made(whole, backend=server.url)


def test_a_langchain_message_says_what_was_read(server):
    chat = ChatRefrag(model_name=TINY, backend=server.url, max_tokens=5)
    answer = chat.invoke([HumanMessage(TEXT)])
    assert answer.response_metadata["spans"] == len(TEXTS)
    assert answer.usage_metadata["output_tokens"] <= 5
