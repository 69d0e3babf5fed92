"""A vector store over a few documents, and chains around it as an app developer writes them."""

import asyncio

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import Field

from refrag_rag.langchain import ChatRefrag, RefragCompressor, RefragIndexer
from tests.sample_texts import TEXTS, hashed_words

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer from the context.\n\n{context}"), ("human", "{input}")]
)


def documents():
    return [Document(text, id=name, metadata={"source": name}) for name, text in TEXTS.items()]


class HashedWords(Embeddings):
    """A deterministic embedding without a model."""

    def embed_query(self, text):
        return hashed_words(text)

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


class OtherModel(GenericFakeChatModel):
    """Another chat model, which reads only text: says its messages, remembers its prompts."""

    prompts: list = Field(default_factory=list)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.prompts.append(messages)
        return super()._generate(messages, stop, run_manager, **kwargs)


def other_model(*texts):
    return OtherModel(messages=iter([AIMessage(text) for text in texts]))


class Chain:
    """Indexed documents, a retriever that marks what it finds, and the chat model."""

    def __init__(self, engine, **settings):
        self.engine = engine
        self.chat = ChatRefrag(engine, **{"max_tokens": 8, **settings})
        self.store = InMemoryVectorStore(HashedWords())
        self.store.add_documents(RefragIndexer(engine).transform_documents(documents()))
        self.plain = self.store.as_retriever(search_kwargs={"k": 2})
        self.retriever = self.compressed(RefragCompressor())

    def compressed(self, compressor):
        return ContextualCompressionRetriever(base_compressor=compressor, base_retriever=self.plain)

    def stored(self):
        """Documents as the vector store has them."""
        return self.store.get_by_ids(list(TEXTS))


def join(found):
    return "\n\n".join(document.page_content for document in found)


def collect(stream):
    """What an async iterator gives."""

    async def read():
        return [item async for item in stream]

    return asyncio.run(read())
