"""LangChain adapters in real chains: vector store, LCEL, retrieval chains, a small real model."""

import asyncio

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_classic")

from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore

from refrag_rag.errors import CheckpointError, InputError, PromptTooLongError, StoreError
from refrag_rag.langchain import (
    ChatRefrag,
    RefragCompressor,
    RefragIndexer,
    RefragLLM,
    precompute_documents,
    strip_documents,
)
from refrag_rag.spans import find_spans, strip_spans, wrap
from tests.langchain.chains import HashedWords

QUESTION = "What is the capital of Kesh?"
DOCUMENTS = [
    Document(text, id=name, metadata={"title": name})
    for name, text in {
        "Aru": "Aru lies in the north. Its capital is Belo. The river Ona crosses Aru.",
        "Kesh": "Kesh exports tin. Its capital is Dorn, a town of 900 {people}.",
        "Mira": 'Mira was founded in 1871 by Ada Lunn. It builds "clocks" & [[refrag]] bells.',
    }.items()
]
CHAT = ChatPromptTemplate.from_messages(
    [("system", "Answer from the context.\n\n{context}"), ("human", "{input}")]
)


def retriever(compressor):
    store = InMemoryVectorStore(HashedWords())
    store.add_documents(DOCUMENTS)
    return ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=store.as_retriever(search_kwargs={"k": 3})
    )


def stuffed():
    marked = RefragCompressor().compress_documents(DOCUMENTS, QUESTION)
    return "\n\n".join(document.page_content for document in marked)


@pytest.fixture
def messages():
    return [SystemMessage(f"Context:\n{stuffed()}"), HumanMessage(QUESTION)]


@pytest.fixture
def chat(engine):
    return ChatRefrag(engine, max_tokens=6)


def test_span_text_hits_the_store_after_indexing(engine, chat, messages):
    report = precompute_documents(engine, DOCUMENTS)
    assert report.encoded == 3
    assert precompute_documents(engine, DOCUMENTS).encoded == 0
    found = chat.invoke(messages).response_metadata
    assert (found["spans"], found["cache_hits"], found["cache_misses"]) == (3, 3, 0)
    assert found["positions"] < found["plain_positions"]


@pytest.mark.parametrize("title_key", [None, "title"])
def test_retrieval_chain(engine, chat, title_key):
    RefragIndexer(engine, title_key=title_key).transform_documents(DOCUMENTS)
    seen = []
    chain = create_retrieval_chain(
        retriever(RefragCompressor(title_key=title_key)),
        create_stuff_documents_chain(chat, CHAT, output_parser=_Keep(seen)),
    )
    result = chain.invoke({"input": QUESTION})
    assert result["answer"] == seen[0].content
    counts = seen[0].response_metadata
    assert (counts["spans"], counts["cache_hits"], counts["cache_misses"]) == (3, 3, 0)
    found = retriever(RefragCompressor()).base_retriever.invoke(QUESTION)
    assert [document.id for document in result["context"]] == [one.id for one in found]
    plain = {d.id: d for d in strip_documents(result["context"], title_key=title_key)}
    assert plain["Kesh"] == DOCUMENTS[1]
    assert plain["Aru"] == DOCUMENTS[0]


class _Keep(StrOutputParser):
    """Keeps the whole message that it parses."""

    def __init__(self, seen):
        super().__init__()
        object.__setattr__(self, "_seen", seen)

    def parse_result(self, result, *, partial=False):
        self._seen.append(result[0].message)
        return super().parse_result(result, partial=partial)


def test_lcel_chain_streams_and_batches(engine, chat):
    RefragIndexer(engine).transform_documents(DOCUMENTS)
    context = retriever(RefragCompressor()) | (
        lambda found: "\n\n".join(d.page_content for d in found)
    )
    chain = {"context": context, "input": RunnablePassthrough()} | CHAT | chat | StrOutputParser()
    answer = chain.invoke(QUESTION)
    assert answer
    assert "".join(chain.stream(QUESTION)) == answer
    assert chain.batch([QUESTION] * 2) == [answer] * 2
    assert asyncio.run(chain.ainvoke(QUESTION)) == answer
    assert asyncio.run(chain.abatch([QUESTION] * 2)) == [answer] * 2

    async def pieces():
        return [piece async for piece in chain.astream(QUESTION)]

    assert "".join(asyncio.run(pieces())) == answer


def test_llm_chain_and_batches(engine):
    llm = RefragLLM(engine, max_tokens=6)
    prompt = PromptTemplate.from_template("{context}\n\nQuestion: {input}")
    chain = create_stuff_documents_chain(llm, prompt)
    marked = RefragCompressor().compress_documents(DOCUMENTS, QUESTION)
    inputs = [
        {"context": marked[:count], "input": question}
        for count, question in [(3, QUESTION), (1, "Where is Aru?"), (2, "Who?")]
    ]
    single = [chain.invoke(one) for one in inputs]
    assert chain.batch(inputs) == single
    prompts = [prompt.format(context=stuffed(), input=QUESTION), "Where?", wrap("Aru.") + " What?"]
    alone = [llm.invoke(one) for one in prompts]
    assert llm.batch(prompts) == alone
    assert asyncio.run(llm.abatch(prompts)) == alone
    assert ["".join(llm.stream(one)) for one in prompts] == alone
    hits = llm.generate(prompts).generations[0][0].generation_info["cache_hits"]
    assert hits == 3


def test_stream_and_async_equal_invoke(chat, messages):
    single = chat.invoke(messages)
    total = None
    for chunk in chat.stream(messages):
        total = chunk if total is None else total + chunk
    assert total.content == single.content
    assert total.usage_metadata == single.usage_metadata
    assert asyncio.run(chat.ainvoke(messages)).content == single.content

    async def read():
        return [chunk async for chunk in chat.astream(messages)]

    chunks = asyncio.run(read())
    assert "".join(chunk.content for chunk in chunks) == single.content
    assert sum(chunk.usage_metadata is not None for chunk in chunks) == 1


def test_usage_counts_positions(engine, chat, messages):
    answer = chat.invoke(messages)
    prompt = [
        {"role": "system", "content": messages[0].content},
        {"role": "user", "content": messages[1].content},
    ]
    assert answer.usage_metadata["input_tokens"] == engine.compress(prompt).positions
    assert answer.usage_metadata["output_tokens"] <= 6


def test_arguments_of_a_call_reach_the_model(chat, messages):
    plain = chat.invoke(messages, policy="all").response_metadata
    assert plain["positions"] == plain["plain_positions"]
    none = chat.bind(p=0.0).invoke(messages).response_metadata
    assert none["expanded"] == 0
    assert chat.invoke(messages, max_tokens=2).usage_metadata["output_tokens"] <= 2
    drawn = [
        chat.invoke(messages, temperature=1.5, top_k=50, seed=seed).content for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    text = chat.invoke(messages).content
    stop = text[len(text) // 2]
    assert chat.invoke(messages, stop=[stop]).content == text.split(stop)[0]


def test_the_compressor_precomputes_what_is_missing(engine, chat):
    marked = RefragCompressor(engine).compress_documents(DOCUMENTS, QUESTION)
    found = chat.invoke([HumanMessage([d.page_content for d in marked] + ["Who?"])])
    assert found.response_metadata["cache_misses"] == 0


def test_a_compressor_pipeline_ends_with_ours(engine):
    pipeline = DocumentCompressorPipeline(transformers=[RefragIndexer(engine), RefragCompressor()])
    found = retriever(pipeline).invoke(QUESTION)
    assert all(len(find_spans(document.page_content)) == 1 for document in found)
    assert engine.precompute([DOCUMENTS[0].page_content]).encoded == 0
    assert asyncio.run(retriever(pipeline).ainvoke(QUESTION)) == found


def test_a_retriever_tool_gives_spans_to_a_tool_message():
    tool = create_retriever_tool(retriever(RefragCompressor()), "search", "Searches.")
    assert len(find_spans(tool.invoke({"query": QUESTION}))) == 3


def test_a_plain_model_reads_the_full_text():
    assert strip_spans(CHAT.format(context=stuffed(), input="?")).count(DOCUMENTS[0].page_content)


def test_token_counts_take_a_span_as_its_positions(engine, chat):
    text = DOCUMENTS[0].page_content
    assert chat.get_num_tokens(text) == engine.count_tokens(text)
    assert chat.get_num_tokens(wrap(text)) < chat.get_num_tokens(text) / 2
    assert len(chat.get_token_ids(wrap(text))) == chat.get_num_tokens(wrap(text))


def test_bad_input_is_refused_clearly(engine, chat):
    with pytest.raises(InputError):
        chat.invoke([])
    with pytest.raises(InputError):
        chat.invoke("x", p=1.5)
    with pytest.raises(InputError):
        chat.invoke("x", policy="nonsense")
    with pytest.raises(InputError):
        RefragLLM(engine, temperature=-1.0).invoke("x")
    with pytest.raises(PromptTooLongError):
        chat.invoke("word " * 5000)
    assert chat.invoke([SystemMessage("No passages."), HumanMessage(QUESTION)]).content is not None


def test_components_with_the_same_settings_meet_in_the_store(engine, messages, tmp_path):
    model, store = str(tmp_path / "model"), tmp_path / "vectors"
    engine.model.save_pretrained(model)
    RefragIndexer(model_name=model, store=store).transform_documents(DOCUMENTS)
    chat = ChatRefrag(model_name=model, store=store, max_tokens=6)
    answer = chat.invoke(messages)
    assert answer.response_metadata["cache_hits"] == 3
    assert answer.content == ChatRefrag(engine, max_tokens=6).invoke(messages).content


def test_what_cannot_be_loaded_is_one_clear_error(engine, tmp_path):
    with pytest.raises(CheckpointError):
        ChatRefrag(model_name=str(tmp_path / "nothing")).invoke("x")
    model, file = str(tmp_path / "model"), tmp_path / "file"
    engine.model.save_pretrained(model)
    file.write_text("")
    with pytest.raises(StoreError):
        RefragIndexer(model_name=model, store=file / "store").transform_documents(DOCUMENTS)
