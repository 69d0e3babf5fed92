"""A hosted LLM behind the same postprocessor: what reaches a real HTTP server."""

import asyncio

import pytest

pytest.importorskip("llama_index.llms.openai_like")
pytest.importorskip("langchain_openai")

from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.chains.retrieval import create_retrieval_chain
from langchain_core.output_parsers import StrOutputParser
from langchain_openai import ChatOpenAI
from llama_index.llms.openai_like import OpenAILike

from refrag_rag import Refrag
from refrag_rag.engine.extract import ELLIPSIS, extract
from refrag_rag.langchain import RefragCompressor
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor
from refrag_rag.policies import limit_of
from refrag_rag.spans import CLOSE, OPEN, find_spans
from tests.hosted import hosted, reply
from tests.langchain.chains import PROMPT
from tests.langchain.chains import Chain as LangChain
from tests.llama_index.chains import WAYS, check_sources, query
from tests.llama_index.chains import Chain as LlamaIndexChain
from tests.sample_texts import QUESTION, TEXTS

SHARE = 0.3


@pytest.fixture(scope="module")
def server():
    with hosted() as running:
        yield running


@pytest.fixture(autouse=True)
def no_requests_yet(server):
    server.requests.clear()


@pytest.fixture(scope="module")
def module_engine(model):
    return Refrag(model)


@pytest.fixture(scope="module")
def llama_index(module_engine):
    return LlamaIndexChain(module_engine)


@pytest.fixture(scope="module")
def langchain(module_engine):
    return LangChain(module_engine)


def shortened(engine, texts, **settings):
    """What must reach the server of these passages; keeps to the budget."""
    extracts = extract(engine, texts, QUESTION, p=SHARE, **settings)
    kept = sum(one.kept for one in extracts)
    assert 0 < kept <= limit_of(SHARE, sum(one.chunks for one in extracts))
    return [one.text for one in extracts]


def open_ai_like(server):
    return OpenAILike(model="m", api_base=server.url, api_key="-", is_chat_model=True)


def check_shortened(server, pieces):
    """The one prompt that the server saw holds the pieces alone, in order."""
    (prompt,) = server.prompts
    assert "\n\n".join(pieces) in prompt
    assert "[[" not in prompt
    left_out = [text for text in TEXTS.values() if text in prompt]
    assert left_out == []


# --- LlamaIndex --------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_llama_index_sends_the_shortened_text(server, llama_index, module_engine, way):
    engine = llama_index.query_engine(
        llm=open_ai_like(server),
        node_postprocessors=[RefragPostprocessor(module_engine, output="text", p=SHARE)],
        streaming="stream" in way,
    )
    answer, response = query(engine, way)
    check_shortened(
        server, shortened(module_engine, [item.node.text for item in response.source_nodes])
    )
    assert bool(server.requests[0].get("stream")) == ("stream" in way)
    assert answer == reply(server.prompts[0])
    check_sources(response, llama_index.index)


def test_llama_index_chat_engines_send_it_too(server, llama_index, module_engine):
    chat = llama_index.index.as_chat_engine(
        chat_mode="context",
        llm=open_ai_like(server),
        memory=llama_index.memory(),
        node_postprocessors=[RefragPostprocessor(module_engine, output="text", p=SHARE)],
        similarity_top_k=2,
    )
    response = chat.chat(QUESTION)
    check_shortened(
        server, shortened(module_engine, [item.node.text for item in response.source_nodes])
    )
    assert str(response) == reply(server.prompts[0])


def test_llama_index_default_output_is_the_full_text_between_markers(server, llama_index):
    engine = llama_index.query_engine(llm=open_ai_like(server))
    answer, response = query(engine, "sync")
    (prompt,) = server.prompts
    assert [span.text for span in find_spans(prompt)] == [
        n.node.text for n in response.source_nodes
    ]
    assert answer == reply(prompt)


def test_nodes_of_which_nothing_was_chosen_stay_or_go(server, llama_index, module_engine):
    for unchosen, count in (("keep", 2), ("drop", 1)):
        mark = RefragPostprocessor(module_engine, output="text", p=0.1, unchosen=unchosen)
        engine = llama_index.query_engine(llm=open_ai_like(server), node_postprocessors=[mark])
        check_sources(engine.query(QUESTION), count=count)
    kept, dropped = server.prompts
    assert f"\n\n{ELLIPSIS}\n" in kept
    assert f"\n\n{ELLIPSIS}\n" not in dropped


def test_one_pipeline_serves_both(server, llama_index, module_engine):
    """Shortened text is plain text to our LLM too: it reads all of it."""
    settings = {"node_postprocessors": [RefragPostprocessor(module_engine, output="text")]}
    llama_index.query_engine(llm=open_ai_like(server), **settings).query(QUESTION)
    own = llama_index.query_engine(llm=RefragLLM(module_engine, max_new_tokens=2), **settings)
    assert str(own.query(QUESTION))
    assert len(server.requests) == 1


# --- LangChain ---------------------------------------------------------------------------


def ask_langchain(chain, way):
    """Answer and whole result (None where the way gives pieces only)."""
    asked = {"input": QUESTION}
    if way == "sync":
        result = chain.invoke(asked)
        return result["answer"], result
    if way == "stream":
        return "".join(piece.get("answer", "") for piece in chain.stream(asked)), None

    async def ask():
        if way == "async":
            result = await chain.ainvoke(asked)
            return result["answer"], result
        return "".join([piece.get("answer", "") async for piece in chain.astream(asked)]), None

    return asyncio.run(ask())


def langchain_chain(langchain, server, compressor):
    model = ChatOpenAI(model="m", base_url=server.url, api_key="-")
    answer = create_stuff_documents_chain(model, PROMPT, output_parser=StrOutputParser())
    return create_retrieval_chain(langchain.compressed(compressor), answer)


@pytest.mark.parametrize("way", WAYS)
def test_langchain_sends_the_shortened_text(server, langchain, module_engine, way):
    compressor = RefragCompressor(module_engine, output="text", p=SHARE)
    answer, result = ask_langchain(langchain_chain(langchain, server, compressor), way)
    found = langchain.plain.invoke(QUESTION)
    pieces = shortened(module_engine, [document.page_content for document in found])
    check_shortened(server, pieces)
    assert bool(server.requests[0].get("stream")) == ("stream" in way)
    assert answer == reply(server.prompts[0])
    if result is not None:
        assert [document.page_content for document in result["context"]] == pieces
        assert [document.id for document in result["context"]] == [one.id for one in found]
    assert [one.page_content for one in found] == [TEXTS[one.id] for one in found]


def test_langchain_default_output_is_the_full_text_between_markers(server, langchain):
    answer, result = ask_langchain(langchain_chain(langchain, server, RefragCompressor()), "sync")
    (prompt,) = server.prompts
    spans = find_spans(prompt)
    assert [span.text for span in spans] == [TEXTS[one.id] for one in result["context"]]
    assert answer == reply(prompt)


def test_langchain_batches_send_it_too(server, langchain, module_engine):
    compressor = RefragCompressor(module_engine, output="text", p=SHARE, unchosen="drop")
    chain = langchain_chain(langchain, server, compressor)
    results = chain.batch([{"input": QUESTION}, {"input": "How long is the Danube?"}])
    assert sorted(result["answer"] for result in results) == sorted(map(reply, server.prompts))
    assert not any(OPEN in prompt or CLOSE in prompt for prompt in server.prompts)
