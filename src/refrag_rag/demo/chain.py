"""The same documents through LangChain's retrieval chain."""

from collections.abc import Sequence

from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.chains.retrieval import create_retrieval_chain
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings

from refrag_rag.engine import Refrag
from refrag_rag.evaluation.retrieval import embedding_model_folder
from refrag_rag.langchain import ChatRefrag, RefragCompressor, RefragIndexer

PROMPT = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer the question from the context below.\n\n{context}"),
        ("human", "{input}"),
    ]
)


def answer_with_langchain(
    texts: Sequence[str], questions: Sequence[str], engine: Refrag
) -> list[str]:
    """Index `texts`, and for each question retrieve, compress and answer."""
    documents = RefragIndexer(engine).transform_documents([Document(text) for text in texts])
    embeddings = HuggingFaceEmbeddings(
        model_name=str(embedding_model_folder()), model_kwargs={"device": "cpu"}
    )
    store = InMemoryVectorStore.from_documents(list(documents), embeddings)
    retriever = ContextualCompressionRetriever(
        base_compressor=RefragCompressor(),
        base_retriever=store.as_retriever(search_kwargs={"k": 8}),
    )
    answer = create_stuff_documents_chain(ChatRefrag(engine, max_tokens=24), PROMPT)
    chain = create_retrieval_chain(retriever, answer)
    return [str(chain.invoke({"input": question})["answer"]) for question in questions]
