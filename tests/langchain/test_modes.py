"""What happens to marked documents in every way that LangChain's chains answer."""

import asyncio

import pytest
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import EnsembleRetriever, MultiQueryRetriever
from langchain_classic.retrievers.document_compressors import (
    DocumentCompressorPipeline,
    LLMChainExtractor,
)
from langchain_core.caches import InMemoryCache
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_text_splitters import CharacterTextSplitter

from refrag_rag.errors import PromptTooLongError
from refrag_rag.langchain import RefragCompressor, RefragLLM, strip_documents
from refrag_rag.spans import find_spans, strip_spans
from tests.langchain.chains import PROMPT, collect, documents, join, other_model
from tests.sample_texts import OTHER, QUESTION, TEXTS


def mode(name, result="works", note=""):
    return pytest.mark.mode(framework="LangChain", name=name, result=result, note=note)


@pytest.fixture
def lcel(chain):
    source = {"context": chain.retriever | join, "input": RunnablePassthrough()}
    return source | PROMPT | chain.chat | StrOutputParser()


def own_answer(chain):
    """The last answer that the engine gave."""
    return chain.engine.calls[-1].answer.text


@mode("LCEL chain")
def test_lcel(chain, lcel, check):
    answer = lcel.invoke(QUESTION)
    assert answer == own_answer(chain) != ""
    assert asyncio.run(lcel.ainvoke(QUESTION)) == answer
    check(chain, spans=[2, 2])


@mode("stream, astream")
def test_streams(chain, lcel, check):
    answer = lcel.invoke(QUESTION)
    assert "".join(lcel.stream(QUESTION)) == answer
    assert "".join(collect(lcel.astream(QUESTION))) == answer
    check(chain, spans=[2, 2, 2])


@mode("batch, abatch")
def test_batches(chain, lcel, check):
    answers = [lcel.invoke(QUESTION), lcel.invoke(OTHER)]
    assert answers[0] != answers[1]
    assert lcel.batch([QUESTION, OTHER]) == answers
    assert asyncio.run(lcel.abatch([QUESTION, OTHER])) == answers
    check(chain, spans=[2] * 6)


@mode("astream_events")
def test_events(chain, lcel, check):
    events = collect(lcel.astream_events(QUESTION, version="v2"))
    pieces = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
    (end,) = [e["data"]["output"] for e in events if e["event"] == "on_chat_model_end"]
    assert "".join(piece.content for piece in pieces) == end.content == own_answer(chain)
    assert len(pieces) > 2
    assert end.response_metadata["cache_hits"] == 2
    found = [e["data"]["output"] for e in events if e["event"] == "on_retriever_end"]
    assert all(document in documents() for document in strip_documents(found[0]))
    check(chain, spans=[2])


@mode("create_stuff_documents_chain")
def test_stuff(chain, check):
    stuff = create_stuff_documents_chain(chain.chat, PROMPT)
    marked = RefragCompressor().compress_documents(documents(), QUESTION)
    answer = stuff.invoke({"context": marked, "input": QUESTION})
    assert answer == own_answer(chain)
    assert "".join(stuff.stream({"context": marked, "input": QUESTION})) == answer
    check(chain, spans=[3, 3])


@mode("create_stuff_documents_chain with RefragLLM")
def test_stuff_text(chain, check):
    stuff = create_stuff_documents_chain(RefragLLM(chain.engine, max_tokens=8), PROMPT)
    marked = RefragCompressor().compress_documents(documents(), QUESTION)
    assert stuff.invoke({"context": marked, "input": QUESTION}) == own_answer(chain)
    check(chain, spans=[3])


@mode("create_retrieval_chain", note="strip_documents gives the context as it was")
def test_retrieval_chain(chain, check):
    whole = create_retrieval_chain(
        chain.retriever, create_stuff_documents_chain(chain.chat, PROMPT)
    )
    result = whole.invoke({"input": QUESTION})
    assert result["answer"] == own_answer(chain)
    assert strip_documents(result["context"]) == chain.plain.invoke(QUESTION)
    assert asyncio.run(whole.ainvoke({"input": QUESTION})) == result
    streamed = "".join(piece.get("answer", "") for piece in whole.stream({"input": QUESTION}))
    assert streamed == result["answer"]
    check(chain, spans=[2, 2, 2])


CONDENSE = ChatPromptTemplate.from_messages(
    [MessagesPlaceholder("chat_history"), ("human", "Rephrase the question: {input}")]
)
WITH_HISTORY = ChatPromptTemplate.from_messages(
    [("system", "{context}"), MessagesPlaceholder("chat_history"), ("human", "{input}")]
)


@mode("create_history_aware_retriever")
def test_history_aware(chain, check):
    condense = other_model(QUESTION)
    whole = create_retrieval_chain(
        create_history_aware_retriever(condense, chain.retriever, CONDENSE),
        create_stuff_documents_chain(chain.chat, WITH_HISTORY),
    )
    history = [HumanMessage("Tell me of the Titanic."), AIMessage("It was a ship.")]
    result = whole.invoke({"input": "Who was her captain?", "chat_history": history})
    assert result["answer"] == own_answer(chain)
    assert strip_documents(result["context"]) == chain.plain.invoke(QUESTION)
    first = whole.invoke({"input": QUESTION, "chat_history": []})
    assert first["context"] == result["context"]
    check(chain, spans=[2, 2])


@mode("RunnableWithMessageHistory", note="the memory keeps what was said, not the passages")
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
def test_message_history(chain, check):
    history = InMemoryChatMessageHistory()
    whole = RunnableWithMessageHistory(
        create_retrieval_chain(
            chain.retriever, create_stuff_documents_chain(chain.chat, WITH_HISTORY)
        ),
        lambda: history,
        input_messages_key="input",
        history_messages_key="chat_history",
        output_messages_key="answer",
        history_factory_config=[],
    )
    answers = [whole.invoke({"input": question})["answer"] for question in (QUESTION, OTHER)]
    said = [QUESTION, answers[0], OTHER, answers[1]]
    assert [message.content for message in history.messages] == said
    check(chain, spans=[2, 2])


@mode("ContextualCompressionRetriever")
def test_contextual_compression(chain, check):
    found = chain.retriever.invoke(QUESTION)
    assert asyncio.run(chain.retriever.ainvoke(QUESTION)) == found
    assert [len(find_spans(document.page_content)) for document in found] == [1, 1]
    assert strip_documents(found) == chain.plain.invoke(QUESTION)
    chain.chat.invoke(PROMPT.invoke({"context": join(found), "input": QUESTION}))
    check(chain, spans=[2])


@mode("DocumentCompressorPipeline", note="ours is the last step")
def test_pipeline(chain, check):
    extractor = LLMChainExtractor.from_llm(other_model(TEXTS["Titanic"], TEXTS["Nintendo"]))
    pipeline = DocumentCompressorPipeline(transformers=[extractor, RefragCompressor()])
    found = chain.compressed(pipeline).invoke(QUESTION)
    assert [len(find_spans(document.page_content)) for document in found] == [1, 1]
    chain.chat.invoke(PROMPT.invoke({"context": join(found), "input": QUESTION}))
    check(chain, spans=[2])


@mode(
    "DocumentCompressorPipeline, a splitter after ours",
    "degrades",
    "the splitter cuts spans; what has lost a marker is read as text",
)
def test_a_splitter_after_ours_cuts_spans(chain):
    splitter = CharacterTextSplitter(separator=". ", chunk_size=60, chunk_overlap=0)
    pipeline = DocumentCompressorPipeline(transformers=[RefragCompressor(), splitter])
    found = chain.compressed(pipeline).invoke(QUESTION)
    assert len(found) > 4
    answer = chain.chat.invoke(PROMPT.invoke({"context": found[0].page_content, "input": QUESTION}))
    assert answer.response_metadata["spans"] == 0
    assert answer.content == own_answer(chain)
    read = chain.engine.compress(chain.engine.calls[-1].prompt)
    assert "The captain of the Titanic was Edward Smith" in str(read.segments[0].text)
    assert "[[" not in str(read.segments[0].text)


@mode(
    "EnsembleRetriever",
    note="around plain retrievers, ours last; or around marked ones with scores=False or an id_key",
)
def test_ensemble(chain, check):
    both = EnsembleRetriever(retrievers=[chain.retriever, chain.retriever], weights=[0.5, 0.5])
    found = both.invoke(QUESTION)
    assert len(found) == 2
    chain.chat.invoke(PROMPT.invoke({"context": join(found), "input": QUESTION}))
    check(chain, spans=[2])


@mode("MultiQueryRetriever")
def test_multi_query(chain, check):
    many = MultiQueryRetriever.from_llm(chain.retriever, other_model(f"{QUESTION}\n{OTHER}"))
    found = many.invoke(QUESTION)
    assert len({document.page_content for document in found}) == len(found) >= 2
    chain.chat.invoke(PROMPT.invoke({"context": join(found), "input": QUESTION}))
    check(chain, spans=[len(found)])


@mode("with_fallbacks", "degrades", "the other model reads the full text between light markers")
def test_fallbacks(chain):
    other = other_model("From the other.", "And again.")
    source = {"context": chain.retriever | join, "input": RunnablePassthrough()}
    long = chain.chat.with_fallbacks([other], exceptions_to_handle=(PromptTooLongError,))
    assert (source | PROMPT | chain.chat).invoke(QUESTION).content == own_answer(chain)
    answer = (source | PROMPT | long).invoke("word " * 5000)
    assert answer.content == "From the other."
    read = other.prompts[0][0].content
    assert len(find_spans(read)) == 2
    plain = [document.page_content for document in chain.plain.invoke("word " * 5000)]
    assert strip_spans(read) == "Answer from the context.\n\n" + "\n\n".join(plain)
    assert asyncio.run((source | PROMPT | long).ainvoke("word " * 5000)).content == "And again."


@mode("LLM cache", note="InMemoryCache; policies and budgets have entries of their own")
def test_llm_cache(chain, check):
    chat = chain.chat.model_copy(update={"cache": InMemoryCache()})
    whole = {"context": chain.retriever | join, "input": RunnablePassthrough()} | PROMPT | chat
    first = whole.invoke(QUESTION)
    again = whole.invoke(QUESTION)
    assert len(chain.engine.calls) == 1
    assert again.content == first.content
    assert whole.invoke(OTHER).content == own_answer(chain)
    assert asyncio.run(whole.ainvoke(QUESTION)).content == first.content
    assert len(chain.engine.calls) == 2
    chat.model_copy(update={"p": 0.0}).invoke(
        PROMPT.invoke({"context": join(chain.retriever.invoke(QUESTION)), "input": QUESTION})
    )
    assert chain.engine.calls[-1].answer.counts.expanded == 0
    check(chain, spans=[2, 2, 2])
