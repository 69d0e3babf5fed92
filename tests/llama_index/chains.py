"""An index over a few documents, and what must hold for every prompt that an engine answered."""

import asyncio
import json
from functools import cache

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import CompletionResponse, LLMMetadata
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter

from refrag_rag import Refrag
from refrag_rag.llama_index import RefragLLM, RefragPostprocessor, RefragTransform
from refrag_rag.prompt import TextSegment
from refrag_rag.spans import CLOSE
from tests.sample_texts import QUESTION, TEXTS, hashed_words


def documents():
    """New documents, as the frameworks change the ones they get."""
    return [Document(text=text, id_=name) for name, text in TEXTS.items()]


class HashedWords(BaseEmbedding):
    """A deterministic embedding without a model."""

    def _get_text_embedding(self, text):
        return hashed_words(text)

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


class ScriptedLLM(CustomLLM):
    """Another LLM, which takes only text: answers with a script and remembers its prompts."""

    script: str = ""
    prompts: list[str] = Field(default_factory=list)

    @property
    def metadata(self):
        return LLMMetadata()

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        self.prompts.append(prompt)
        return CompletionResponse(text=self.script)

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        self.prompts.append(prompt)
        yield CompletionResponse(text=self.script, delta=self.script)


class Chain:
    """An index over the documents, an LLM and a postprocessor, as an app developer writes it."""

    def __init__(self, engine, **llm):
        self.engine = engine
        self.llm = RefragLLM(engine, **{"max_new_tokens": 8, **llm})
        self.mark = RefragPostprocessor()
        self.index = VectorStoreIndex.from_documents(
            documents(),
            transformations=[SentenceSplitter(chunk_size=256), RefragTransform(engine)],
            embed_model=HashedWords(),
        )
        self.common = {
            "llm": self.llm,
            "similarity_top_k": 2,
            "node_postprocessors": [self.mark],
        }

    def query_engine(self, mode="compact", **settings):
        return self.index.as_query_engine(response_mode=mode, **{**self.common, **settings})

    def memory(self):
        """A memory that counts as the model does (the default one leaves a database open)."""
        return ChatMemoryBuffer.from_defaults(tokenizer_fn=self.llm.tokenizer(), token_limit=3000)


WAYS = ("sync", "async", "stream", "async stream")


def query(query_engine, way, question=QUESTION):
    """Ask in one of WAYS; the engine must stream where the way does. Text and response."""
    if way == "sync":
        response = query_engine.query(question)
        return str(response), response
    if way == "stream":
        response = query_engine.query(question)
        return "".join(response.response_gen), response

    async def ask():
        response = await query_engine.aquery(question)
        if way == "async":
            return str(response), response
        return "".join([piece async for piece in response.async_response_gen()]), response

    return asyncio.run(ask())


def check_vectors(engine, *, hits=None, scripted=False):
    """Every passage came from the store and was read as vectors, but for expanded chunks.

    And each answer, unless it was scripted, is the one that the engine gives by itself.
    """
    assert engine.asked, "no prompt with passages reached the engine"
    if not scripted:
        check_answers(engine)
    sentences = [s for text in TEXTS.values() for s in text.split(". ")]
    for call in engine.asked:
        counts = call.answer.counts
        assert counts.cache_misses == 0
        assert counts.positions < counts.plain_positions
        assert counts.expanded < counts.chunks
        plain = "".join(
            segment.text
            for segment in engine.compress(call.prompt, tools=call.arguments.get("tools")).segments
            if isinstance(segment, TextSegment) and segment.role == "prompt"
        )
        assert [sentence for sentence in sentences if sentence in plain] == []
    if hits is not None:
        assert sum(call.answer.counts.cache_hits for call in engine.asked) == hits


def check_answers(engine):
    """Each answer is the one that another engine gives for that prompt."""
    for call in engine.calls:
        asked = json.dumps([call.prompt, call.arguments], sort_keys=True)
        answer = own_answer(engine.model, engine.p, asked)
        assert call.answer.text == answer.text
        assert call.answer.counts.positions == answer.counts.positions


@cache
def own_engine(model, p):
    """An engine over the same model with a store of its own."""
    return Refrag(model, p=p)


@cache
def own_answer(model, p, asked):
    """What that engine answers; the four ways of asking have the same prompts."""
    prompt, arguments = json.loads(asked)
    return own_engine(model, p).generate(prompt, **arguments)


def check_sources(response, index=None, *, count=2):
    """Source nodes are byte-equal to what was indexed."""
    assert len(response.source_nodes) == count
    for item in response.source_nodes:
        name = item.node.ref_doc_id
        assert item.node.text.encode() == TEXTS[name].encode()
        assert CLOSE not in item.get_content()
        if index is not None:
            stored = index.docstore.get_node(item.node_id)
            assert item.node.to_dict() == {**stored.to_dict()}
